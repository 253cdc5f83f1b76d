"use strict";
// The list: sort, filter, pick; what is picked here is shown in the image, and the other way round.
(() => {
  const { scene, byId, element } = page;
  const table = byId("table");
  if (!table) return;
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells], tools = byId("tools");
  const rowOf = new Map(rows.map((row) => [Number(row.dataset.id), row]));
  const articles = new Map([...document.querySelectorAll(".dossier")].map((one) => [Number(one.dataset.id), one]));
  let picked = null;

  // -- sort ---------------------------------------------------------------------------------------------------------

  const key = (row, k) => row.cells[k].dataset.sort ?? row.cells[k].textContent.trim();
  const more = new Intl.Collator("en", { numeric: true });
  function compare(a, b) {
    const [x, y] = [Number(a), Number(b)];
    if (Number.isFinite(x) && Number.isFinite(y)) return x - y;
    return more.compare(a, b);
  }
  heads.forEach((head, k) =>
    head.firstElementChild.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      rows.sort((a, b) => (up ? 1 : -1) * compare(key(a, k), key(b, k)));
      body.append(...rows);
    }));

  // -- filter -------------------------------------------------------------------------------------------------------

  const kinds = [...new Set(rows.map((row) => row.dataset.type))];
  const boxes = kinds.length < 2 ? [] : kinds.map((kind) => {
    const label = element("label"), box = element("input");
    Object.assign(box, { type: "checkbox", checked: true, name: "type", value: kind });
    label.append(box, `${kind} (${rows.filter((row) => row.dataset.type === kind).length})`);
    byId("filters").append(label);
    box.addEventListener("change", filter);
    return box;
  });
  function filter() {
    const off = new Set(boxes.filter((box) => !box.checked).map((box) => box.value));
    for (const row of rows) row.hidden = off.has(row.dataset.type);
    page.tell("hide", new Set(rows.filter((row) => row.hidden).map((row) => Number(row.dataset.id))));
  }

  // -- pick ---------------------------------------------------------------------------------------------------------

  function pick(id, centre) {
    page.tell("pick", { id, centre });
  }
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (!row) return;
    pick(Number(row.dataset.id), true);
    const article = articles.get(Number(row.dataset.id)); // on a phone it lies below what is seen
    if (article.getBoundingClientRect().top > innerHeight - 40) article.scrollIntoView({ block: "start" });
  });
  for (const [id, row] of rowOf) {
    row.addEventListener("pointerenter", () => page.tell("point", id));
    row.addEventListener("pointerleave", () => page.tell("point", null));
    row.querySelector(".pick").addEventListener("focus", () => page.tell("point", id));
  }
  body.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key], row = event.target.closest("tr");
    if (!by || !row) return;
    event.preventDefault();
    const seen = rows.filter((one) => !one.hidden), next = seen[seen.indexOf(row) + by];
    next?.querySelector(".pick").focus();
  });
  page.hear("step", (by) => {
    const seen = rows.filter((row) => !row.hidden), now = seen.indexOf(rowOf.get(picked));
    if (seen.length) pick(Number(seen[(now + by + seen.length) % seen.length].dataset.id), true);
  });
  page.hear("near", (id) => { for (const row of rows) row.classList.toggle("near", Number(row.dataset.id) === id); });

  page.hear("pick", ({ id }) => {
    picked = id;
    for (const row of rows) {
      row.classList.toggle("picked", row === rowOf.get(id));
      row.querySelector(".pick").setAttribute("aria-pressed", String(row === rowOf.get(id)));
    }
    const row = rowOf.get(id), box = table.parentElement; // the box scrolls, the page stays
    const top = row.offsetTop - table.tHead.offsetHeight, bottom = row.offsetTop + row.offsetHeight;
    if (top < box.scrollTop) box.scrollTop = top;
    else if (bottom > box.scrollTop + box.clientHeight) box.scrollTop = bottom - box.clientHeight;
    for (const [own, article] of articles) article.hidden = own !== id;
    articles.get(id).querySelector(".slot").append(tools);
    tools.hidden = false;
    const all = scene.candidates[id];
    byId("space").hidden = !all;
    if (all) look(id, all[0].id);
  });

  // -- candidates ---------------------------------------------------------------------------------------------------

  function look(defect, id) {
    for (const button of articles.get(defect).querySelectorAll(".look"))
      button.setAttribute("aria-pressed", String(button.textContent === id));
    page.tell("look", { defect, id });
  }
  for (const [defect, article] of articles)
    for (const row of article.querySelectorAll("tr[data-candidate]"))
      row.querySelector(".look").addEventListener("click", () => look(defect, row.dataset.candidate));

  pick(Number(rows[0].dataset.id), false);
})();
