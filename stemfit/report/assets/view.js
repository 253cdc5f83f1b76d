"use strict";
// The image with its layers: pan, zoom, pick. Coordinates are pixels of the image; screen = (pixel + 0.5) * scale + shift.
(() => {
  const { scene, pictures, defects, byId, element } = page;
  const canvas = byId("map"), ctx = canvas.getContext("2d"), tip = byId("tip"), said = byId("said");
  const [rows, cols] = scene.shape, columns = scene.columns;
  const layers = new Map([...document.querySelectorAll("input[name=layer]")].map((box) => [box.value, box]));
  const shown = (name) => layers.get(name)?.checked ?? false;
  const isSuspect = (row) => !row.claimed;
  let width = 300, height = 300, scale = 1, shift = [0, 0], picture = "image";
  let picked = null, near = null, column = null, asked = false;
  let hidden = new Set(); // ids that the filters of the list leave out

  const fit = () => Math.min(width / cols, height / rows);
  const toScreen = (x, y) => [(x + 0.5) * scale + shift[0], (y + 0.5) * scale + shift[1]];
  const toImage = (u, v) => [(u - shift[0]) / scale - 0.5, (v - shift[1]) / scale - 0.5];

  function measure() {
    const whole = Math.abs(scale - fit()) < 1e-9;
    const [x, y] = toImage(width / 2, height / 2);
    width = canvas.clientWidth;
    height = Math.min((width * rows) / cols, Math.max(260, 0.85 * window.innerHeight));
    canvas.style.height = `${height}px`;
    canvas.width = Math.round(width * devicePixelRatio);
    canvas.height = Math.round(height * devicePixelRatio);
    if (whole || scale < fit()) showAll();
    else look(x, y, scale);
  }

  function look(x, y, wanted) {
    scale = Math.min(Math.max(wanted, fit()), Math.max(40, fit()));
    shift = [width / 2 - (x + 0.5) * scale, height / 2 - (y + 0.5) * scale];
    keepInside();
  }

  const showAll = () => look((cols - 1) / 2, (rows - 1) / 2, 0);

  function keepInside() {
    for (const [axis, view, size] of [[0, width, cols * scale], [1, height, rows * scale]])
      shift[axis] = size <= view ? (view - size) / 2 : Math.min(0, Math.max(view - size, shift[axis]));
    canvas.style.touchAction = scale > fit() * 1.001 ? "none" : "pan-y"; // the whole image does not hold the page
    redraw();
  }

  function zoom(factor, u = width / 2, v = height / 2) {
    const [x, y] = toImage(u, v);
    scale = Math.min(Math.max(scale * factor, fit()), Math.max(40, fit()));
    shift = [u - (x + 0.5) * scale, v - (y + 0.5) * scale];
    keepInside();
  }

  function redraw() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; draw(); });
  }

  // -- drawing ------------------------------------------------------------------------------------------------------

  function draw() {
    ctx.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    ctx.fillStyle = "#000";
    ctx.fillRect(0, 0, width, height);
    const k = scene.shrunk, source = pictures[picture];
    ctx.imageSmoothingEnabled = scale * k < 4;
    ctx.drawImage(source, shift[0], shift[1], source.naturalWidth * k * scale, source.naturalHeight * k * scale);
    if (shown("regions")) drawRegions();
    if (shown("lattice")) drawLattice();
    if (shown("columns")) drawColumns();
    for (const one of scene.defects) if (visible(one)) drawDefect(one);
    if (shown("names")) drawNames();
    drawBar();
  }

  const visible = (one) => shown(isSuspect(one) ? "suspects" : "defects") && (!hidden.has(one.id) || one.id === picked);

  function path(points, closed) {
    ctx.beginPath();
    for (const [x, y] of points) ctx.lineTo(...toScreen(x, y));
    if (closed) ctx.closePath();
  }

  function drawRegions() {
    ctx.save();
    for (const region of scene.regions) {
      path(region.outline, true);
      ctx.fillStyle = "rgb(154 164 178 / .35)";
      ctx.fill();
      ctx.strokeStyle = "#fff";
      ctx.lineWidth = 1;
      ctx.stroke();
      const xs = region.outline.map((p) => p[0]), ys = region.outline.map((p) => p[1]);
      const inside = (low, high, most) => (Math.max(0, low) + Math.min(most, high)) / 2;
      const at = toScreen(inside(Math.min(...xs), Math.max(...xs), cols), inside(Math.min(...ys), Math.max(...ys), rows));
      ctx.font = "13px system-ui, sans-serif";
      const half = ctx.measureText(region.kind).width / 2 + 4;
      const x = Math.min(Math.max(at[0], half), width - half);
      text([[region.kind, false]], x - half + 4, Math.min(Math.max(at[1], 12), height - 12), 13, "#fff");
    }
    ctx.restore();
  }

  function drawLattice() {
    ctx.strokeStyle = "rgb(255 255 255 / .6)";
    ctx.lineWidth = 1;
    ctx.beginPath();
    for (const line of scene.lattice)
      line.forEach(([x, y], k) => ctx[k ? "lineTo" : "moveTo"](...toScreen(x, y)));
    ctx.stroke();
  }

  function drawColumns() {
    const size = Math.min(Math.max(0.2 * scene.reach * scale, 0.8), 6), [x0, y0] = toImage(0, 0);
    const [x1, y1] = toImage(width, height);
    scene.signs.forEach((sign, kind) => {
      ctx.beginPath();
      const r = sign.filled ? size : 1.4 * size;
      for (let k = 0; k < columns.x.length; k += 1) {
        if (columns.sign[k] !== kind) continue;
        const x = columns.x[k], y = columns.y[k];
        if (x < x0 - 9 || x > x1 + 9 || y < y0 - 9 || y > y1 + 9) continue;
        const [u, v] = toScreen(x, y);
        ctx.moveTo(u + r, v);
        ctx.arc(u, v, r, 0, 7);
      }
      if (sign.filled) {
        ctx.fillStyle = sign.colour;
        ctx.fill();
        if (size > 2.5) { ctx.strokeStyle = "#000"; ctx.lineWidth = 0.7; ctx.stroke(); }
      } else {
        ctx.strokeStyle = sign.colour;
        ctx.lineWidth = Math.max(1, 0.45 * size);
        ctx.stroke();
      }
    });
    if (column !== null) {
      path([[columns.x[column], columns.y[column]]]);
      ctx.arc(...toScreen(columns.x[column], columns.y[column]), size + 4, 0, 7);
      ctx.strokeStyle = "#fff";
      ctx.lineWidth = 2;
      ctx.stroke();
    }
  }

  function drawDefect(one) {
    const mine = one.id === picked, over = one.id === near, thin = isSuspect(one) ? 1 : 1.8;
    const strokes = mine ? [["#000", 6, []], ["#fff", 3.2, []]] : [["#000", thin + 1.4, []], ["#F0E442", thin, [5, 4]]];
    for (const [colour, w, dash] of strokes) {
      ctx.strokeStyle = colour;
      ctx.lineWidth = w + (over ? 1.4 : 0);
      ctx.setLineDash(dash);
      for (const ring of one.rings) { path(ring, true); ctx.stroke(); }
      for (const link of one.links) { path(link, false); ctx.lineWidth = w / 2; ctx.stroke(); }
    }
    ctx.setLineDash([]);
  }

  function text(parts, u, v, px, colour) {
    ctx.textBaseline = "middle";
    for (const [words, low] of parts) {
      ctx.font = `600 ${low ? 0.75 * px : px}px system-ui, sans-serif`;
      ctx.lineWidth = 3;
      ctx.lineJoin = "round";
      ctx.strokeStyle = "rgb(0 0 0 / .8)";
      ctx.strokeText(words, u, v + (low ? 0.25 * px : 0));
      ctx.fillStyle = colour;
      ctx.fillText(words, u, v + (low ? 0.25 * px : 0));
      u += ctx.measureText(words).width;
    }
  }

  function long(parts, px) {
    return parts.reduce((sum, [words, low]) => {
      ctx.font = `600 ${low ? 0.75 * px : px}px system-ui, sans-serif`;
      return sum + ctx.measureText(words).width;
    }, 0);
  }

  // Beside its defect, clear of other names; where there is no room only the number, or nothing.
  function drawNames() {
    const px = 13, taken = [[0, height - 40, 130, height]];
    const clear = (box) => taken.every((b) => box[2] < b[0] || box[0] > b[2] || box[3] < b[1] || box[1] > b[3]);
    const order = [...scene.defects].sort((a, b) => (b.id === picked) - (a.id === picked) || b.claimed - a.claimed || b.p - a.p);
    const boxes = order.filter(visible).map((one) => {
      const at = one.points.map(([x, y]) => toScreen(x, y)), r = scene.reach * scale;
      const us = at.map((p) => p[0]), vs = at.map((p) => p[1]);
      return [one, [Math.min(...us) - r, Math.min(...vs) - r, Math.max(...us) + r, Math.max(...vs) + r]];
    });
    for (const [, box] of boxes) taken.push(box);
    for (const [one, box] of boxes) {
      if (box[2] < 0 || box[0] > width || box[3] < 0 || box[1] > height) continue;
      const name = [[`${one.id} `, false], ...page.pieces(one.label), [` ${page.probability(one.p)}${one.claimed ? "" : " ?"}`, false]];
      const done = [name, [[String(one.id), false]]].some((parts) => {
        const w = long(parts, px), middle = (box[1] + box[3]) / 2, centre = (box[0] + box[2]) / 2;
        const places = [[box[2] + 3, middle], [box[0] - 3 - w, middle], [centre - w / 2, box[1] - 9], [centre - w / 2, box[3] + 9]];
        return places.some(([u, v]) => {
          const own = [u - 1, v - 8, u + w + 1, v + 8];
          if (!clear(own) || u < 2 || u + w > width - 2 || v < 9 || v > height - 9) return false;
          taken.push(own);
          text(parts, u, v, px, one.id === picked ? "#fff" : "#F0E442");
          return true;
        });
      });
      if (!done && one.id === picked) text(name, Math.max(2, Math.min(box[2] + 3, width - long(name, px) - 2)), (box[1] + box[3]) / 2, px, "#fff");
    }
  }

  // A round number of nanometres, lower left.
  function drawBar() {
    const perNm = (10 / scene.pixel_A) * scale, wish = (0.25 * width) / perNm, decade = 10 ** Math.floor(Math.log10(wish));
    const nm = decade * Math.max(...[1, 2, 5].filter((step) => step * decade <= wish));
    ctx.fillStyle = "#000";
    ctx.fillRect(9, height - 16, nm * perNm + 2, 6);
    ctx.fillStyle = "#fff";
    ctx.fillRect(10, height - 15, nm * perNm, 4);
    text([[`${Number(nm.toPrecision(2))} nm`, false]], 10, height - 26, 13, "#fff");
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
    let best = null, least = Math.max(scene.reach, 10 / scale) ** 2;
    for (const one of scene.defects.filter(visible))
      for (const [px, py] of one.points) {
        const d = (px - x) ** 2 + (py - y) ** 2;
        if (d < least) { least = d; best = one.id; }
      }
    return best;
  }

  function aboutColumn(k) {
    const nm = (v) => ((v * scene.pixel_A) / 10).toFixed(3);
    const sign = scene.signs[columns.sign[k]];
    const name = sign.species ? `Column ${k + 1}: ${sign.species}, P ${page.probability(columns.p[k])}` : `Column ${k + 1}: no name`;
    return [
      name,
      `x ${page.measured(columns.x[k], columns.sx[k])} px, y ${page.measured(columns.y[k], columns.sy[k])} px`,
      `${nm(columns.x[k])} nm, ${nm(columns.y[k])} nm from the upper left`,
      `brightness ${page.measured(columns.light[k], columns.slight[k])}`,
      columns.site[k] ? `site ${columns.site[k]}` : "on no site",
    ];
  }

  function tellOf(id, k, at) {
    near = id;
    column = k;
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
      tip.style.left = `${Math.max(0, Math.min(at[0] + 14, width - tip.offsetWidth - 4))}px`;
      const below = at[1] + 16, above = at[1] - tip.offsetHeight - 12;
      tip.style.top = `${below + tip.offsetHeight < height || above < 0 ? below : above}px`;
    }
    said.textContent = lines.map((line) => line.textContent).join("; ");
    page.tell("near", id);
    redraw();
  }

  const under = (u, v) => {
    const [x, y] = toImage(u, v);
    return [defectAt(x, y), shown("columns") ? nearest(x, y, Math.max(0.7 * scene.reach, 8 / scale)) : null];
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
      if (moved > 4) { shift = [shift[0] + at[0] - before[0], shift[1] + at[1] - before[1]]; tip.hidden = true; keepInside(); }
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
    if (event.deltaY > 0 && scale <= fit() * 1.001) return; // the page scrolls on
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.06 : 0.002)), ...where(event));
  }, { passive: false });

  function step(dx, dy) { // to the nearest column in a direction
    const [cx, cy] = column === null ? toImage(width / 2, height / 2) : [columns.x[column], columns.y[column]];
    let best = null, least = Infinity;
    columns.x.forEach((x, k) => {
      const along = (x - cx) * dx + (columns.y[k] - cy) * dy, across = Math.abs((x - cx) * dy - (columns.y[k] - cy) * dx);
      if (along > 0.5 && along + 2 * across < least) { least = along + 2 * across; best = k; }
    });
    if (best === null) return;
    const [u, v] = toScreen(columns.x[best], columns.y[best]);
    if (u < 20 || v < 20 || u > width - 20 || v > height - 20) look(columns.x[best], columns.y[best], scale);
    tellOf(defectAt(columns.x[best], columns.y[best]), best, toScreen(columns.x[best], columns.y[best]));
  }

  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const way = ways[event.key];
    if (way && event.shiftKey) step(...way);
    else if (way) { shift = [shift[0] - 60 * way[0], shift[1] - 60 * way[1]]; keepInside(); }
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

  for (const box of layers.values()) box.addEventListener("change", redraw);
  const ramp = document.querySelector(".scale");
  for (const choice of document.querySelectorAll("input[name=picture]"))
    choice.addEventListener("change", () => { picture = choice.value; ramp.hidden = picture !== "residual"; redraw(); });
  const colours = ramp.querySelector("canvas").getContext("2d"), across = colours.createLinearGradient(0, 0, 100, 0);
  ["#053061", "#4393c3", "#f7f7f7", "#d6604d", "#67001f"].forEach((c, k) => across.addColorStop(k / 4, c));
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
    item.append(mark, `${sign.species || "no name"} (${sign.count})`);
    byId("legend").append(item);
  }

  page.hear("pick", ({ id, centre }) => {
    picked = id;
    if (centre) look(...defects.get(id).at, Math.max(scale, 1.6 * fit(), Math.min(width, height) / (12 * scene.cell)));
    redraw();
  });
  page.hear("hide", (ids) => { hidden = ids; redraw(); });
  page.hear("point", (id) => { near = id; redraw(); });
  Promise.all(Object.values(pictures).map((one) => one.decode())).then(() => {
    canvas.dataset.ready = "yes";
    redraw();
  });
  new ResizeObserver(measure).observe(canvas.parentElement);
  measure();
  showAll();
  // What is in view, for whoever looks from outside.
  page.view = () => ({ scale, shift, fit: fit(), picked, near, column, toScreen });
})();
