// Parallel coordinates as plain SVG: sharp at any size, printable, and independent of WebGL, which Plotly's own need.
function drawParallel(box, spec, colour) {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";
  const TOP = 44, BOTTOM = 40, LEFT = 64, RIGHT = 84, BELOW = 26;
  const stops = [0, 1, 2, 3, 4].map((i) => colour("scale" + i));
  const brushes = box.brushes || (box.brushes = new Map());

  const make = (name, attributes, parent, text) => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  };
  const shorten = (text, limit) => (text.length > limit ? text.slice(0, limit - 1) + "…" : text);

  function render() {
    const axes = spec.axes, height = box.clientHeight;
    const width = Math.max(box.clientWidth, LEFT + RIGHT + 76 * (axes.length - 1)); // scrolls where the page is narrow
    box.replaceChildren();
    const svg = make("svg", { width, height, class: "parallel" }, box);
    const any = axes.some((axis) => axis.inactive);
    const bottom = height - BOTTOM - (any ? BELOW : 0);
    const x = (i) => LEFT + (i * (width - LEFT - RIGHT)) / Math.max(1, axes.length - 1);
    const y = (p) => (p === null ? bottom + BELOW : bottom - p * (bottom - TOP));
    const room = (width - LEFT - RIGHT) / Math.max(1, axes.length - 1);
    const paths = make("g", { fill: "none" }, svg);
    const lines = spec.lines.map((line, row) => {
      const bend = 0.35 * room;
      const d = line.map((p, i) => {
        if (i === 0) return `M${x(0)},${y(p)}`;
        return `C${x(i - 1) + bend},${y(line[i - 1])} ${x(i) - bend},${y(p)} ${x(i)},${y(p)}`;
      }).join("");
      const best = row === spec.best;
      const shade = Math.min(4, Math.floor(spec.quality[row] * 5));
      const many = spec.lines.length > 200;
      const path = make("path", {
        d, stroke: best ? colour("best") : stops[shade], "stroke-width": best ? 3 : many ? 1 : 1.6,
        "stroke-opacity": best ? 1 : many ? 0.5 : 0.85,
      }, paths);
      make("title", {}, path, `${spec.noun} ${spec.numbers[row]}: ${spec.objective} ${spec.texts[row]}`);
      return path;
    });

    function filter() {
      lines.forEach((path, row) => {
        const inside = [...brushes].every(([i, [low, high]]) => {
          const place = y(spec.lines[row][i]);
          return place >= low && place <= high;
        });
        path.classList.toggle("out", !inside);
      });
    }

    axes.forEach((axis, i) => {
      const group = make("g", { transform: `translate(${x(i)},0)` }, svg);
      make("line", { y1: TOP, y2: bottom, class: "rule" }, group);
      const anchor = i === 0 ? "start" : i === axes.length - 1 ? "end" : "middle";
      const shift = i === 0 ? -LEFT + 4 : i === axes.length - 1 ? RIGHT - 4 : 0;
      const letters = Math.max(6, Math.floor(room / 7.2));
      const title = make("text", { x: shift, y: 16, "text-anchor": anchor, class: "title" }, group, shorten(axis.title, letters));
      make("title", {}, title, axis.title);
      const last = i === axes.length - 1;
      const ticks = axis.ticks.map(([p, text]) => [y(p), text]);
      if (axis.inactive) ticks.push([y(null), "inactive"]);
      for (const [place, text] of ticks) {
        make("line", { x1: last ? 0 : -4, x2: last ? 4 : 0, y1: place, y2: place, class: "rule" }, group);
        const limit = last || i === 0 ? 10 : Math.max(5, Math.floor(room / 9));
        const label = make("text", { x: last ? 8 : -8, y: place + 4, "text-anchor": last ? "start" : "end", class: "tick" }, group, shorten(text, limit));
        make("title", {}, label, text);
      }
      const area = make("rect", { x: -14, y: TOP - 6, width: 28, height: bottom + (any ? BELOW : 0) - TOP + 12, class: "brush-area" }, group);
      const mark = make("rect", { x: -7, width: 14, class: "brush" }, group);
      const show = () => {
        const range = brushes.get(i);
        mark.setAttribute("y", range ? range[0] : 0);
        mark.setAttribute("height", range ? range[1] - range[0] : 0);
      };
      let start = null;
      const at = (event) => event.clientY - svg.getBoundingClientRect().top;
      area.addEventListener("pointerdown", (event) => {
        area.setPointerCapture(event.pointerId);
        start = at(event);
        brushes.delete(i);
        show();
        filter();
      });
      area.addEventListener("pointermove", (event) => {
        if (start === null || Math.abs(at(event) - start) < 3) return;
        brushes.set(i, [Math.min(start, at(event)), Math.max(start, at(event))]);
        show();
        filter();
      });
      area.addEventListener("pointerup", () => { start = null; });
      show();
    });
    const bar = make("g", { transform: `translate(${LEFT - 4},${height - 12})` }, svg);
    make("text", { x: 0, y: 4, class: "tick" }, bar, `worse (${spec.worse})`);
    const offset = 7 * (9 + spec.worse.length);
    stops.forEach((stop, i) => make("rect", { x: offset + 22 * i, y: -5, width: 22, height: 10, fill: stop }, bar));
    make("text", { x: offset + 118, y: 4, class: "tick" }, bar, `better (${spec.better})`);
    filter();
  }

  render();
  if (!box.watched) {
    box.watched = true;
    let width = box.clientWidth;
    new ResizeObserver(() => {
      if (box.clientWidth === width) return;
      width = box.clientWidth;
      box.brushes.clear();
      drawParallel(box, spec, (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim());
    }).observe(box);
  }
}
