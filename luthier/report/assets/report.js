// Draws the figures in the colours of the style sheet, and makes the table of trials sortable.
(() => {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const BUTTONS = [["toImage", "zoom2d", "pan2d", "resetScale2d"]];
  let colour = () => "";

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

  function draw() {
    const style = getComputedStyle(document.documentElement);
    colour = (name) => style.getPropertyValue("--" + name).trim();
    figures.forEach((figure, i) => {
      const box = document.getElementById("figure-" + i);
      if (figure.kind === "parallel") {
        drawParallel(box, figure.spec, colour);
        return;
      }
      const { data, layout } = resolve(figure.spec, "");
      const options = { responsive: true, displayModeBar: "hover", displaylogo: false, modeBarButtons: BUTTONS };
      Plotly.react(box, data, { ...layout, height: box.clientHeight, autosize: true }, options);
    });
    document.documentElement.dataset.drawn = figures.length;
  }
  draw();
  dark.addEventListener("change", draw);

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
  function sort(column) {
    const up = heads[column].getAttribute("aria-sort") !== "ascending";
    heads.forEach((head, i) => head.setAttribute("aria-sort", i === column ? (up ? "ascending" : "descending") : "none"));
    const rows = [...body.rows].map((row) => [key(row, column), row]);
    rows.sort(([a], [b]) => {
      if (rank(a) !== rank(b)) return rank(a) - rank(b);
      const order = typeof a === "number" ? a - b : a.localeCompare(b);
      return up ? order : -order;
    });
    body.append(...rows.map(([, row]) => row));
  }
  heads.forEach((head, i) => head.firstElementChild.addEventListener("click", () => sort(i)));
  for (const chip of document.querySelectorAll(".chip")) {
    chip.addEventListener("click", () => {
      const shown = chip.getAttribute("aria-pressed") !== "true";
      chip.setAttribute("aria-pressed", shown);
      for (const row of body.rows) {
        if (row.dataset.status === chip.dataset.status) row.hidden = !shown;
      }
    });
  }
})();
