// Draws the figures in the colours of the style sheet, and makes the table of trials sortable. The page of a report
// calls luthier.draw and luthier.table once, a live page whenever a part of it is new.
window.luthier = (() => {
  "use strict";
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const BUTTONS = [["toImage", "zoom2d", "pan2d", "resetScale2d"]];
  const shown = new Map(); // id of a box: the figure in it
  const waiting = new Map(); // those of them that are yet to be drawn
  const view = { column: -1, up: true, off: new Set(), words: "" }; // how the user looks at the table
  let colour = () => "";
  let timer = 0;

  // Figures name their colours ("@best"); only keys that hold colours are looked at, so no user's text can be one.
  function resolve(value, key) {
    if (typeof value === "string") {
      if (value[0] !== "@" || !/color$|colorscale$/.test(key)) return value;
      if (value === "@scale") return [0, 1, 2, 3, 4].map((i) => [i / 4, colour("scale" + i)]);
      if (value === "@heat") return [0, 1, 2, 3, 4].map((i) => [i / 4, i ? colour("scale" + i) : colour("heat0")]);
      const [name, alpha] = value.slice(1).split("/"); // "@best/29": the colour, at two hexadecimal digits of opacity
      return colour(name) + (alpha || "");
    }
    if (Array.isArray(value)) {
      return typeof value[0] === "number" ? value : value.map((item) => resolve(item, key));
    }
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, resolve(item, name)]));
    }
    return value;
  }

  // One figure a turn, those in sight first: the page is there, and answers, before all of them are drawn.
  function draw(figures) {
    for (const figure of figures) {
      shown.set(figure.id, figure);
      waiting.set(figure.id, figure);
    }
    later();
  }

  function later() {
    timer ||= setTimeout(step, 0);
  }

  function step() {
    timer = 0;
    const ready = [...waiting.values()].filter((figure) => figure.kind !== "plotly" || window.Plotly);
    const figure = ready.find(inSight) || ready[0];
    if (!figure) return;
    waiting.delete(figure.id);
    paint(figure);
    document.documentElement.dataset.drawn = shown.size - waiting.size;
    later();
  }

  function inSight(figure) {
    const place = document.getElementById(figure.id)?.getBoundingClientRect();
    return place && place.top < innerHeight && place.bottom > 0;
  }

  function paint(figure) {
    const style = getComputedStyle(document.documentElement);
    colour = (name) => style.getPropertyValue("--" + name).trim();
    const box = document.getElementById(figure.id);
    if (!box) {
      shown.delete(figure.id);
      return;
    }
    if (figure.kind === "parallel") {
      drawParallel(box, figure.spec, colour);
      return;
    }
    const { data, layout } = resolve(figure.spec, "");
    const options = { responsive: true, displayModeBar: "hover", displaylogo: false, modeBarButtons: BUTTONS };
    Plotly.react(box, data, { ...layout, height: box.clientHeight, autosize: true, uirevision: "kept" }, options);
  }
  dark.addEventListener("change", () => draw([...shown.values()]));
  addEventListener("beforeprint", () => [...waiting].forEach(step));
  document.getElementById("plotly")?.addEventListener("load", later); // figures may come before what draws them

  function table() {
    const table = document.getElementById("trials");
    if (!table) return;
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    const key = (row, column) => {
      const cell = row.cells[column];
      return cell.dataset.v === undefined ? cell.textContent.trim() : Number(cell.dataset.v);
    };
    // Numbers before words before nothing, whichever way the column is sorted.
    const rank = (value) => (typeof value === "number" ? 0 : value === "" || value === "·" ? 2 : 1);
    function sort() {
      const { column, up } = view;
      if (column < 0 || column >= heads.length) return;
      heads.forEach((head, i) => head.setAttribute("aria-sort", i === column ? (up ? "ascending" : "descending") : "none"));
      const rows = [...body.rows].map((row) => [key(row, column), row]);
      rows.sort(([a], [b]) => {
        if (rank(a) !== rank(b)) return rank(a) - rank(b);
        const order = typeof a === "number" ? a - b : a.localeCompare(b);
        return up ? order : -order;
      });
      body.append(...rows.map(([, row]) => row));
    }
    function filter() {
      for (const row of body.rows) {
        const found = view.words.split(" ").every((word) => row.textContent.toLowerCase().includes(word));
        row.hidden = view.off.has(row.dataset.status) || !found;
      }
    }
    heads.forEach((head, i) =>
      head.firstElementChild.addEventListener("click", () => {
        view.up = view.column !== i || !view.up;
        view.column = i;
        sort();
      }),
    );
    for (const chip of document.querySelectorAll(".chip")) {
      const status = chip.dataset.status;
      chip.setAttribute("aria-pressed", !view.off.has(status));
      chip.addEventListener("click", () => {
        if (!view.off.delete(status)) view.off.add(status);
        chip.setAttribute("aria-pressed", !view.off.has(status));
        filter();
      });
    }
    const words = document.getElementById("filter");
    if (words) {
      words.value = view.words;
      words.addEventListener("input", () => {
        view.words = words.value.trim().toLowerCase();
        filter();
      });
    }
    sort();
    filter();
  }
  return { draw, table, waiting: () => waiting.size };
})();
