"use strict";
// What all scripts of the page share: the scene, the pictures, and how numbers are told. Texts from outside only ever
// become text nodes.
const page = (() => {
  const scene = JSON.parse(document.getElementById("scene").textContent);
  const byId = (id) => document.getElementById(id);
  const pictures = { image: byId("image"), simulated: byId("simulated"), residual: byId("residual") };
  const defects = new Map(scene.defects.map((defect) => [defect.id, defect]));

  const probability = (p) => (p === null ? "–" : p > 0.99 ? ">0.99" : p < 0.01 ? "<0.01" : p.toFixed(2));

  // Value ± standard error with two digits of the error.
  function measured(value, sigma) {
    if (value === null) return "–";
    if (sigma === null || !(sigma > 0)) return String(value);
    if (sigma >= 100) {
      const power = Math.floor(Math.log10(Math.max(Math.abs(value), sigma)));
      return `(${measured(value / 10 ** power, sigma / 10 ** power)}) × 10${[...String(power)].map((d) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]).join("")}`;
    }
    const decimals = Math.min(20, Math.max(0, 1 - Math.floor(Math.log10(sigma))));
    return `${value.toFixed(decimals)} ± ${sigma.toFixed(decimals)}`;
  }

  // V_S2 as [["V", false], ["S2", true]]: what is there, and below it what belongs there.
  function pieces(label) {
    const parts = label.split("+");
    if (parts.length > 1) {
      const counts = new Map();
      for (const part of parts) counts.set(part, (counts.get(part) || 0) + 1);
      return [...counts].flatMap(([name, n], k) => [[(k ? ", " : "") + (n > 1 ? `${n} ` : ""), false], ...pieces(name)]);
    }
    if (!/^[A-Za-z0-9]+_[A-Za-z0-9]+$/.test(label)) return [[label, false]];
    const [there, belongs] = label.split("_");
    return [[there, false], [belongs, true]];
  }

  function element(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function labelled(label) {
    const all = element("b");
    for (const [text, low] of pieces(label)) all.append(low ? element("sub", text) : text);
    return all;
  }

  // Messages between the scripts: "pick" a defect, "near" one (or null), "look" at a candidate.
  const tell = (name, detail) => document.dispatchEvent(new CustomEvent(`page:${name}`, { detail }));
  const hear = (name, action) => document.addEventListener(`page:${name}`, (event) => action(event.detail));

  const dots = [0.1, 4.6]; // of outlines, with round ends

  return { scene, dots, pictures, defects, byId, probability, measured, pieces, element, labelled, tell, hear };
})();
