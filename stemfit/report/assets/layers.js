"use strict";
// What is drawn over the image, layer by layer. Coordinates are pixels of the image; screen = (pixel + 0.5) * scale + shift.
(() => {
  const { scene, pictures, byId } = page;
  const canvas = byId("map"), ctx = canvas.getContext("2d");
  const [rows, cols] = scene.shape, columns = scene.columns;
  const boxes = new Map([...document.querySelectorAll("input[name=layer]")].map((box) => [box.value, box]));
  const shown = (name) => boxes.get(name)?.checked ?? false;
  const isSuspect = (row) => !row.claimed, FEW_SUSPECTS = 12;
  let asked = false;

  // What is in view: `column` is an index, `picked` and `near` are ids of defects, `hidden` those that a filter leaves out.
  const view = {
    width: 300, height: 300, scale: 1, shift: [0, 0], picture: "image", picked: null, near: null, column: null,
    hidden: new Set(),
    fit: () => Math.min(view.width / cols, view.height / rows),
    toScreen: (x, y) => [(x + 0.5) * view.scale + view.shift[0], (y + 0.5) * view.scale + view.shift[1]],
    toImage: (u, v) => [(u - view.shift[0]) / view.scale - 0.5, (v - view.shift[1]) / view.scale - 0.5],
    redraw() {
      if (asked) return;
      asked = true;
      requestAnimationFrame(() => { asked = false; draw(); });
    },
    shown,
    visible: (one) => shown(isSuspect(one) ? "suspects" : "defects") && (!view.hidden.has(one.id) || one.id === view.picked),
  };
  page.view = view;

  function draw() {
    ctx.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    ctx.fillStyle = "#000";
    ctx.fillRect(0, 0, view.width, view.height);
    const k = scene.shrunk, source = pictures[view.picture];
    ctx.imageSmoothingEnabled = view.scale * k < 4;
    ctx.drawImage(source, view.shift[0], view.shift[1], source.naturalWidth * k * view.scale, source.naturalHeight * k * view.scale);
    const words = shown("regions") ? drawRegions() : [];
    if (shown("lattice")) drawLattice();
    if (shown("columns")) drawColumns();
    for (const one of scene.defects) if (view.visible(one)) drawDefect(one);
    if (shown("names")) drawNames(words);
    drawBar();
  }

  function path(points, closed) {
    ctx.beginPath();
    for (const [x, y] of points) ctx.lineTo(...view.toScreen(x, y));
    if (closed) ctx.closePath();
  }

  // Outlines with a word in each; where these words stand.
  function drawRegions() {
    return scene.regions.map((region) => {
      path(region.outline, true);
      ctx.fillStyle = "rgb(154 164 178 / .35)";
      ctx.fill();
      ctx.strokeStyle = "#fff";
      ctx.lineWidth = 1;
      ctx.stroke();
      const xs = region.outline.map((p) => p[0]), ys = region.outline.map((p) => p[1]);
      const inside = (low, high, most) => (Math.max(0, low) + Math.min(most, high)) / 2;
      const at = view.toScreen(inside(Math.min(...xs), Math.max(...xs), cols), inside(Math.min(...ys), Math.max(...ys), rows));
      ctx.font = "13px system-ui, sans-serif";
      const half = ctx.measureText(region.kind).width / 2 + 4;
      const x = Math.min(Math.max(at[0], half), view.width - half), y = Math.min(Math.max(at[1], 12), view.height - 12);
      text([[region.kind, false]], x - half + 4, y, 13, "#fff");
      return [x - half, y - 9, x + half, y + 9];
    });
  }

  function drawLattice() {
    ctx.strokeStyle = "rgb(255 255 255 / .6)";
    ctx.lineWidth = 1;
    ctx.beginPath();
    for (const line of scene.lattice)
      line.forEach(([x, y], k) => ctx[k ? "lineTo" : "moveTo"](...view.toScreen(x, y)));
    ctx.stroke();
  }

  function drawColumns() {
    const size = Math.min(Math.max(0.2 * scene.reach * view.scale, 0.8), 6), [x0, y0] = view.toImage(0, 0);
    const [x1, y1] = view.toImage(view.width, view.height);
    scene.signs.forEach((sign, kind) => {
      ctx.beginPath();
      const r = sign.filled ? size : 1.4 * size;
      for (let k = 0; k < columns.x.length; k += 1) {
        if (columns.sign[k] !== kind) continue;
        const x = columns.x[k], y = columns.y[k];
        if (x < x0 - 9 || x > x1 + 9 || y < y0 - 9 || y > y1 + 9) continue;
        const [u, v] = view.toScreen(x, y);
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
    if (view.column !== null) {
      path([[columns.x[view.column], columns.y[view.column]]]);
      ctx.arc(...view.toScreen(columns.x[view.column], columns.y[view.column]), size + 4, 0, 7);
      ctx.strokeStyle = "#fff";
      ctx.lineWidth = 2;
      ctx.stroke();
    }
  }

  function drawDefect(one) {
    const mine = one.id === view.picked, over = one.id === view.near, thin = isSuspect(one) ? 1.6 : 2.7;
    const strokes = mine ? [["#000", 6, []], ["#fff", 3.2, []]] : [["#000", thin + 1.6, page.dots], ["#fff", thin, page.dots]];
    ctx.lineCap = "round";
    for (const [colour, w, dash] of strokes) {
      ctx.strokeStyle = colour;
      ctx.lineWidth = w + (over ? 1.4 : 0);
      ctx.setLineDash(dash);
      for (const ring of one.rings) { path(ring, true); ctx.stroke(); }
      for (const link of one.links) { path(link, false); ctx.lineWidth = w / 2; ctx.stroke(); }
    }
    ctx.setLineDash([]);
    ctx.lineCap = "butt";
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
  function drawNames(words) {
    const px = 13, taken = [[0, view.height - 40, 130, view.height], ...words];
    const clear = (box) => taken.every((b) => box[2] < b[0] || box[0] > b[2] || box[3] < b[1] || box[1] > b[3]);
    const crowd = scene.defects.filter(isSuspect).length > FEW_SUSPECTS && view.scale < 2 * view.fit(); // they would hide the rest
    const named = (one) => view.visible(one) && (one.claimed || !crowd || one.id === view.picked || one.id === view.near);
    const order = [...scene.defects].sort((a, b) => (b.id === view.picked) - (a.id === view.picked) || b.claimed - a.claimed || b.p - a.p);
    const boxes = order.filter(named).map((one) => {
      const at = one.points.map(([x, y]) => view.toScreen(x, y)), r = scene.reach * view.scale;
      const us = at.map((p) => p[0]), vs = at.map((p) => p[1]);
      return [one, [Math.min(...us) - r, Math.min(...vs) - r, Math.max(...us) + r, Math.max(...vs) + r]];
    });
    for (const [, box] of boxes) taken.push(box);
    for (const [one, box] of boxes) {
      if (box[2] < 0 || box[0] > view.width || box[3] < 0 || box[1] > view.height) continue;
      const name = [[`${one.id} `, false], ...page.pieces(one.claim), [` ${page.probability(one.claim_p)}${one.claimed ? "" : " ?"}`, false]];
      const brief = [[one.claimed ? String(one.id) : `${one.id} ?`, false]];
      const hardly = one.p < 0.01 && one.id !== view.picked; // its name would say little
      const done = [...(hardly ? [] : [name]), brief].some((parts) => {
        const w = long(parts, px), middle = (box[1] + box[3]) / 2, centre = (box[0] + box[2]) / 2;
        const places = [[box[2] + 3, middle], [box[0] - 3 - w, middle], [centre - w / 2, box[1] - 9], [centre - w / 2, box[3] + 9]];
        return places.some(([u, v]) => {
          const own = [u - 1, v - 8, u + w + 1, v + 8];
          if (!clear(own) || u < 2 || u + w > view.width - 2 || v < 9 || v > view.height - 9) return false;
          taken.push(own);
          text(parts, u, v, px, "#fff");
          return true;
        });
      });
      if (!done && one.id === view.picked) text(name, Math.max(2, Math.min(box[2] + 3, view.width - long(name, px) - 2)), (box[1] + box[3]) / 2, px, "#fff");
    }
  }

  // A round number of nanometres, lower left.
  function drawBar() {
    const perNm = (10 / scene.pixel_A) * view.scale, wish = (0.25 * view.width) / perNm, decade = 10 ** Math.floor(Math.log10(wish));
    const nm = decade * Math.max(...[1, 2, 5].filter((step) => step * decade <= wish));
    ctx.fillStyle = "#000";
    ctx.fillRect(9, view.height - 16, nm * perNm + 2, 6);
    ctx.fillStyle = "#fff";
    ctx.fillRect(10, view.height - 15, nm * perNm, 4);
    text([[`${Number(nm.toPrecision(2))} nm`, false]], 10, view.height - 26, 13, "#fff");
  }

  for (const box of boxes.values()) box.addEventListener("change", view.redraw);
})();
