"use strict";
// Filters and order of the cards; without this script all of them are there, failures first.
(() => {
  const form = document.getElementById("filters");
  const place = document.getElementById("cards");
  const said = document.getElementById("shown");
  const cards = [...place.children];
  const asked = (name) => form.elements[name].value.trim();
  const number = (text) => (text === "" ? NaN : Number(text));

  function wanted(card) {
    const { name, status, host, types, density, ncc, doubts } = card.dataset;
    const kind = asked("type");
    const low = number(asked("low")), high = number(asked("high")), least = number(asked("ncc"));
    if (!name.toLowerCase().includes(asked("name").toLowerCase())) return false;
    if (asked("status") && status !== asked("status")) return false;
    if (asked("host") && host !== asked("host")) return false;
    if (kind === "-" && (types || status !== "ok")) return false;
    if (kind && kind !== "-" && !types.split(" ").includes(kind)) return false;
    // What has no value passes no limit; NaN, an empty field, is none.
    if (!Number.isNaN(low) && !(number(density) >= low)) return false;
    if (!Number.isNaN(high) && !(number(density) <= high)) return false;
    if (!Number.isNaN(least) && !(number(ncc) >= least)) return false;
    const sure = asked("sure").split(" ").filter(Boolean);
    if (sure.length && status !== "ok") return false;  // of what has no result nothing is sure
    return !doubts.split(" ").some((kind) => sure.includes(kind));
  }

  const last = (value) => (Number.isNaN(value) ? Infinity : value);
  const orders = {
    name: (a, b) => a.dataset.place - b.dataset.place,
    density: (a, b) => last(-number(a.dataset.density)) - last(-number(b.dataset.density)) || 0,
    ncc: (a, b) => last(number(a.dataset.ncc)) - last(number(b.dataset.ncc)) || 0,
  };

  let placed = "";

  function show() {
    let n = 0;
    for (const card of cards) {
      card.hidden = !wanted(card);  // before anything moves: what is hidden is not laid out
      n += !card.hidden;
    }
    if (asked("order") !== placed) {
      placed = asked("order");
      const parent = place.parentNode;
      place.remove();  // thousands of nodes that a page shows are slow to move
      place.replaceChildren(...(orders[placed] ? [...cards].sort(orders[placed]) : cards));
      parent.append(place);
    }
    said.textContent = `${n} of ${cards.length} images shown`;
  }

  form.hidden = false;
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(show));
})();
