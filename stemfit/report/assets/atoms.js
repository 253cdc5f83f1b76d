"use strict";
// The relaxed structure of one candidate in three dimensions, with 3Dmol.js. One view for all: browsers allow few.
(() => {
  const { scene, byId, element } = page;
  const place = byId("atoms"), which = byId("which"), elements = byId("elements");
  let viewer = null, broken = false;

  function open() {
    if (viewer || broken) return;
    try {
      viewer = window.$3Dmol.createViewer(place, { backgroundColor: "white", antialias: true });
    } catch {
      viewer = null;
    }
    broken = !viewer;
    if (broken) place.replaceChildren(element("p", "This browser draws nothing in three dimensions (WebGL is off). The structures are in the folder “candidates” of the result."));
    const canvas = place.querySelector("canvas");
    canvas?.setAttribute("aria-hidden", "true");
  }

  // For each atom those that it is bonded to.
  function neighbours(atoms, bonds) {
    const found = atoms.map(() => []);
    for (const [i, j] of bonds) { found[i].push(j); found[j].push(i); }
    return found;
  }

  function show({ id, label, atoms, bonds }) {
    open();
    which.replaceChildren(`Candidate ${id}, relaxed: `, page.labelled(label), ", x right and y up as in the image");
    if (broken) return;
    const beside = neighbours(atoms, bonds);
    viewer.removeAllModels();
    viewer.addModel().addAtoms(atoms.map(([elem, x, y, z], k) => ({
      elem, x, y, z, serial: k, index: k, bonds: beside[k], bondOrder: beside[k].map(() => 1),
    })));
    viewer.setStyle({}, { stick: { radius: 0.12, colorscheme: "Jmol" }, sphere: { radius: 0.5, colorscheme: "Jmol" } });
    viewer.resize();
    turn("top");
    const kinds = [...new Set(atoms.map((atom) => atom[0]))].sort();
    elements.replaceChildren(...kinds.map((kind) => {
      const item = element("li"), mark = element("canvas"), ink = mark.getContext("2d");
      [mark.width, mark.height] = [14, 14];
      const colour = window.$3Dmol.elementColors.Jmol[kind] ?? 0xff1493;
      ink.fillStyle = `#${colour.toString(16).padStart(6, "0")}`;
      ink.strokeStyle = "#777";
      ink.beginPath();
      ink.arc(7, 7, 5.5, 0, 7);
      ink.fill();
      ink.stroke();
      item.append(mark, kind);
      return item;
    }));
  }

  function turn(way) {
    if (!viewer) return;
    viewer.setView([0, 0, 0, 0, 0, 0, 0, 1]);
    viewer.zoomTo();
    viewer.zoom(0.85);
    if (way === "side") viewer.rotate(-80, "x");
    viewer.render();
  }

  const ways = { ArrowLeft: [-10, "y"], ArrowRight: [10, "y"], ArrowUp: [-10, "x"], ArrowDown: [10, "x"] };
  place.addEventListener("keydown", (event) => {
    if (!viewer || event.ctrlKey || event.metaKey || event.altKey) return;
    if (ways[event.key]) viewer.rotate(...ways[event.key]);
    else if (event.key === "+" || event.key === "=") viewer.zoom(1.2);
    else if (event.key === "-") viewer.zoom(1 / 1.2);
    else return;
    viewer.render();
    event.preventDefault();
  });
  for (const button of document.querySelectorAll("[data-turn]"))
    button.addEventListener("click", () => turn(button.dataset.turn));

  page.viewer = () => viewer;
  page.hear("look", ({ defect, id }) => show(scene.candidates[defect].find((one) => one.id === id)));
})();
