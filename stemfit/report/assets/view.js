"use strict";
// Moving about in the image: pan, zoom, point, pick.
(() => {
  const { scene, pictures, defects, byId, element, view } = page;
  const canvas = byId("map"), tip = byId("tip"), said = byId("said");
  const [rows, cols] = scene.shape, columns = scene.columns;


  function measure() {
    const whole = Math.abs(view.scale - view.fit()) < 1e-9;
    const [x, y] = view.toImage(view.width / 2, view.height / 2);
    view.width = canvas.clientWidth;
    view.height = Math.min((view.width * rows) / cols, Math.max(260, 0.85 * window.innerHeight));
    canvas.style.height = `${view.height}px`;
    canvas.width = Math.round(view.width * devicePixelRatio);
    canvas.height = Math.round(view.height * devicePixelRatio);
    if (whole || view.scale < view.fit()) showAll();
    else look(x, y, view.scale);
  }

  function look(x, y, wanted) {
    view.scale = Math.min(Math.max(wanted, view.fit()), Math.max(40, view.fit()));
    view.shift = [view.width / 2 - (x + 0.5) * view.scale, view.height / 2 - (y + 0.5) * view.scale];
    keepInside();
  }

  const showAll = () => look((cols - 1) / 2, (rows - 1) / 2, 0);

  function keepInside() {
    for (const [axis, room, size] of [[0, view.width, cols * view.scale], [1, view.height, rows * view.scale]])
      view.shift[axis] = size <= room ? (room - size) / 2 : Math.min(0, Math.max(room - size, view.shift[axis]));
    canvas.style.touchAction = view.scale > view.fit() * 1.001 ? "none" : "pan-y"; // the whole image does not hold the page
    view.redraw();
  }

  function zoom(factor, u = view.width / 2, v = view.height / 2) {
    const [x, y] = view.toImage(u, v);
    view.scale = Math.min(Math.max(view.scale * factor, view.fit()), Math.max(40, view.fit()));
    view.shift = [u - (x + 0.5) * view.scale, v - (y + 0.5) * view.scale];
    keepInside();
  }

  // -- what lies under the pointer ----------------------------------------------------------------------------------

  function nearest(x, y, reach) {
    let best = null, least = reach * reach;
    for (let k = 0; k < columns.x.length; k += 1) {
      const d = (columns.x[k] - x) ** 2 + (columns.y[k] - y) ** 2;
      if (d < least) { least = d; best = k; }
    }
    return best;
  }

  function defectAt(x, y) {
    let best = null, least = Math.max(scene.reach, 10 / view.scale) ** 2;
    for (const one of scene.defects.filter(view.visible))
      for (const [px, py] of one.points) {
        const d = (px - x) ** 2 + (py - y) ** 2;
        if (d < least) { least = d; best = one.id; }
      }
    return best;
  }

  function aboutColumn(k) {
    const nm = (v) => ((v * scene.pixel_A) / 10).toFixed(3);
    const sign = scene.signs[columns.sign[k]];
    const sure = columns.p[k] === null ? "" : `, P ${page.probability(columns.p[k])}`;
    const name = sign.species ? `Column ${k + 1}: ${sign.species}${sure}` : `Column ${k + 1}: not identified`;
    return [
      name,
      `x ${page.measured(columns.x[k], columns.sx[k])} px, y ${page.measured(columns.y[k], columns.sy[k])} px`,
      `${nm(columns.x[k])} nm, ${nm(columns.y[k])} nm from the upper left`,
      `brightness ${page.measured(columns.light[k], columns.slight[k])}`,
      columns.site[k] ? `site ${columns.site[k]}` : "on no site",
    ];
  }

  function tellOf(id, k, at) {
    view.near = id;
    view.column = k;
    const lines = [];
    if (id !== null) {
      const one = defects.get(id), row = document.querySelector(`#table tr[data-id="${id}"]`);
      const first = element("p", `${one.claimed ? "Defect" : "Suspect, not claimed"} ${id}: `);
      first.append(page.labelled(one.label), ` ${one.type}, P ${page.probability(one.p)}`);
      lines.push(first);
      if (row.cells[4].textContent) {
        const others = element("p", "or else ");
        others.append(...row.cells[4].cloneNode(true).childNodes);
        lines.push(others);
      }
      lines.push(element("p", `x ${one.at[0].toFixed(1)}, y ${one.at[1].toFixed(1)} px; ln BF ${row.cells[7].textContent}`));
    }
    if (k !== null) for (const line of aboutColumn(k)) lines.push(element("p", line));
    tip.replaceChildren(...lines);
    tip.hidden = !lines.length || !at;
    if (!tip.hidden) {
      tip.style.left = `${Math.max(0, Math.min(at[0] + 14, view.width - tip.offsetWidth - 4))}px`;
      const below = at[1] + 16, above = at[1] - tip.offsetHeight - 12;
      tip.style.top = `${below + tip.offsetHeight < view.height || above < 0 ? below : above}px`;
    }
    said.textContent = lines.map((line) => line.textContent).join("; ");
    page.tell("near", id);
    view.redraw();
  }

  const under = (u, v) => {
    const [x, y] = view.toImage(u, v);
    return [defectAt(x, y), view.shown("columns") ? nearest(x, y, Math.max(0.7 * scene.reach, 8 / view.scale)) : null];
  };

  // -- mouse, fingers, keys -----------------------------------------------------------------------------------------

  const fingers = new Map();
  let moved = 0;
  const where = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  canvas.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, where(event));
    moved = fingers.size > 1 ? 99 : 0;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const at = where(event), before = fingers.get(event.pointerId);
    if (!before) { if (event.pointerType === "mouse") tellOf(...under(...at), at); return; }
    if (fingers.size === 2) {
      const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, p]) => p);
      const apart = (a) => Math.hypot(a[0] - other[0], a[1] - other[1]);
      zoom(apart(at) / Math.max(1, apart(before)), (at[0] + other[0]) / 2, (at[1] + other[1]) / 2);
    } else {
      moved += Math.hypot(at[0] - before[0], at[1] - before[1]);
      if (moved > 4) { view.shift = [view.shift[0] + at[0] - before[0], view.shift[1] + at[1] - before[1]]; tip.hidden = true; keepInside(); }
    }
    fingers.set(event.pointerId, at);
  });
  const lift = (event) => {
    const at = fingers.get(event.pointerId);
    fingers.delete(event.pointerId);
    if (event.type !== "pointerup" || !at || moved > 4) return;
    const [id, k] = under(...at);
    if (id !== null) page.tell("pick", { id, centre: false });
    tellOf(id, k, at);
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") tellOf(null, null, null); });
  canvas.addEventListener("wheel", (event) => {
    if (event.deltaY > 0 && view.scale <= view.fit() * 1.001) return; // the page scrolls on
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.06 : 0.002)), ...where(event));
  }, { passive: false });

  function step(dx, dy) { // to the nearest column in a direction
    const [cx, cy] = view.column === null ? view.toImage(view.width / 2, view.height / 2) : [columns.x[view.column], columns.y[view.column]];
    let best = null, least = Infinity;
    columns.x.forEach((x, k) => {
      const along = (x - cx) * dx + (columns.y[k] - cy) * dy, across = Math.abs((x - cx) * dy - (columns.y[k] - cy) * dx);
      if (along > 0.5 && along + 2 * across < least) { least = along + 2 * across; best = k; }
    });
    if (best === null) return;
    const [u, v] = view.toScreen(columns.x[best], columns.y[best]);
    if (u < 20 || v < 20 || u > view.width - 20 || v > view.height - 20) look(columns.x[best], columns.y[best], view.scale);
    tellOf(defectAt(columns.x[best], columns.y[best]), best, view.toScreen(columns.x[best], columns.y[best]));
  }

  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const way = ways[event.key];
    if (way && event.shiftKey) step(...way);
    else if (way) { view.shift = [view.shift[0] - 60 * way[0], view.shift[1] - 60 * way[1]]; keepInside(); }
    else if (event.key === "+" || event.key === "=") zoom(1.4);
    else if (event.key === "-") zoom(1 / 1.4);
    else if (event.key === "0") showAll();
    else if (event.key === "n" || event.key === "p") page.tell("step", event.key === "n" ? 1 : -1);
    else if (event.key === "Escape") tellOf(null, null, null);
    else return;
    event.preventDefault();
  });
  for (const button of document.querySelectorAll("[data-zoom]"))
    button.addEventListener("click", () => {
      if (button.dataset.zoom === "fit") showAll();
      else zoom(button.dataset.zoom === "in" ? 1.6 : 1 / 1.6);
    });

  // -- layers, legend, messages -------------------------------------------------------------------------------------

  const ramp = document.querySelector(".scale");
  for (const choice of document.querySelectorAll("input[name=picture]"))
    choice.addEventListener("change", () => { view.picture = choice.value; ramp.hidden = view.picture !== "residual"; view.redraw(); });
  const colours = ramp.querySelector("canvas").getContext("2d"), across = colours.createLinearGradient(0, 0, 100, 0);
  scene.ramp.forEach((c, k, all) => across.addColorStop(k / (all.length - 1), c));
  colours.fillStyle = across;
  colours.fillRect(0, 0, 100, 8);

  for (const sign of scene.signs) {
    const item = element("li"), mark = element("canvas");
    [mark.width, mark.height] = [16, 16];
    const ink = mark.getContext("2d");
    ink.beginPath();
    ink.arc(8, 8, sign.filled ? 4.5 : 5, 0, 7);
    ink.fillStyle = ink.strokeStyle = sign.colour;
    ink.lineWidth = 2;
    if (sign.filled) ink.fill(); else ink.stroke();
    item.append(mark, `${sign.species || "not identified"} (${sign.count})`);
    byId("legend").append(item);
  }

  page.hear("pick", ({ id, centre }) => {
    view.picked = id;
    if (centre) look(...defects.get(id).at, Math.max(view.scale, 1.6 * view.fit(), Math.min(view.width, view.height) / (12 * scene.cell)));
    if (document.activeElement === canvas) tellOf(id, null, view.toScreen(...defects.get(id).at)); // by the keyboard
    view.redraw();
  });
  page.hear("hide", (ids) => { view.hidden = ids; view.redraw(); });
  page.hear("point", (id) => { view.near = id; view.redraw(); });
  Promise.all(Object.values(pictures).map((one) => one.decode())).then(() => {
    canvas.dataset.ready = "yes";
    view.redraw();
  });
  new ResizeObserver(measure).observe(canvas.parentElement);
  measure();
  showAll();
})();
