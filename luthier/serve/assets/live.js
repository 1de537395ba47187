// Fills a page from its events: each brings the parts that have changed, and the order of all.
(() => {
  "use strict";
  const state = document.getElementById("state");
  const top = document.getElementById("top");
  const main = document.getElementById("parts");
  const links = document.getElementById("links");
  const last = new Map(); // id of a part: its HTML
  const study = location.pathname.match(/^\/study\/[^/]+$/);

  function element(html) {
    const made = document.createElement("template");
    made.innerHTML = html; // escaped by the server; the page's policy runs no script in it either
    return made.content.firstElementChild;
  }

  function opened(part) {
    return new Set([...part.querySelectorAll("details[open] > summary")].map((summary) => summary.textContent));
  }

  function put(part) {
    const old = document.getElementById(part.id);
    if (!old || last.get(part.id) !== part.html) {
      const fresh = element(part.html);
      if (old) {
        for (const box of old.querySelectorAll(".js-plotly-plot")) Plotly.purge(box);
        const open = opened(old);
        for (const summary of fresh.querySelectorAll("details > summary")) {
          if (open.has(summary.textContent)) summary.parentElement.open = true;
        }
        const words = old.querySelector("#filter");
        const typing = words && document.activeElement === words;
        old.replaceWith(fresh);
        if (part.id === "table") table(fresh, words);
        if (typing) words.focus();
      } else {
        (part.id === "header" ? top : main).append(fresh);
        if (part.id === "table") table(fresh, null);
      }
      last.set(part.id, part.html);
    }
    luthier.draw(part.figures);
    if (study) {
      const prefix = location.pathname + "/trial/";
      for (const link of document.getElementById(part.id).querySelectorAll('a[href^="trial/"]')) {
        link.href = prefix + link.getAttribute("href").slice(6);
      }
    }
  }

  function table(section, words) {
    const input = words || document.createElement("input");
    input.id = "filter";
    input.type = "search";
    input.placeholder = "Show rows with these words";
    section.querySelector(".scroll").before(input);
    for (const row of section.querySelectorAll("#trials tbody tr")) {
      const cell = row.cells[0];
      const link = document.createElement("a");
      link.href = location.pathname + "/trial/" + cell.textContent.trim();
      link.textContent = cell.textContent.trim();
      cell.replaceChildren(link);
    }
    luthier.table();
  }

  function arrange(order) {
    const kept = new Set(order.map(([id]) => id));
    for (const id of [...last.keys()]) {
      if (kept.has(id)) continue;
      document.getElementById(id)?.remove();
      last.delete(id);
    }
    let before = null;
    for (const [id] of order) {
      const part = document.getElementById(id);
      if (!part || part.parentElement !== main) continue;
      if (before ? before.nextElementSibling !== part : main.firstElementChild !== part) {
        before ? before.after(part) : main.prepend(part);
      }
      before = part;
    }
    const titled = order.filter(([, title]) => title);
    links.hidden = titled.length < 3;
    links.replaceChildren(
      ...titled.map(([id, title]) => {
        const link = document.createElement("a");
        link.href = "#" + id;
        link.textContent = title;
        return link;
      }),
    );
  }

  let updates = 0;
  const source = new EventSource((location.pathname === "/" ? "" : location.pathname) + "/events");
  source.addEventListener("message", (event) => {
    const { order, parts } = JSON.parse(event.data);
    parts.forEach(put);
    arrange(order);
    document.documentElement.dataset.updates = ++updates;
    say("live", "live · " + new Date().toLocaleTimeString());
  });
  source.addEventListener("alive", () => say("live", state.textContent));
  source.addEventListener("trouble", (event) => say("lost", JSON.parse(event.data)));
  source.addEventListener("error", () => say("lost", "connection lost, trying again"));

  function say(kind, text) {
    state.className = kind;
    state.textContent = text;
  }
})();
