"use strict";
// Close to one defect: image, model, residual; and every candidate as this image would show it.
(() => {
  const { scene, pictures, defects } = page;
  const tiles = [...document.querySelectorAll("[data-tile]")];
  const [rows, cols] = scene.shape, over = page.byId("over");

  // Square about a defect, moved to stay in the image: [left, top, side] in pixels.
  function square(one) {
    const far = Math.max(...one.points.map(([x, y]) => Math.max(Math.abs(x - one.at[0]), Math.abs(y - one.at[1]))));
    const side = Math.min(2 * far + 3.4 * scene.cell, rows, cols);
    const corner = (centre, size) => Math.min(Math.max(0, centre + 0.5 - side / 2), size - side);
    return [corner(one.at[0], cols), corner(one.at[1], rows), side];
  }

  function drawTile(canvas, one) {
    const ctx = canvas.getContext("2d"), [left, top, side] = square(one), k = scene.shrunk, px = canvas.width;
    ctx.imageSmoothingEnabled = false;
    ctx.drawImage(pictures[canvas.dataset.tile], left / k, top / k, side / k, side / k, 0, 0, px, px);
    if (canvas.dataset.tile !== "image") return;
    outline(ctx, one, ([x, y]) => [((x + 0.5 - left) / side) * px, ((y + 0.5 - top) / side) * px]);
  }

  function outline(ctx, one, at) {
    ctx.setLineDash(page.dots);
    for (const [colour, width] of [["#000", 4.4], ["#fff", 2.8]]) {
      Object.assign(ctx, { strokeStyle: colour, lineWidth: width, lineCap: "round" });
      for (const ring of one.rings) {
        ctx.beginPath();
        for (const point of ring) ctx.lineTo(...at(point));
        ctx.stroke();
      }
    }
    ctx.setLineDash([]);
    ctx.lineCap = "butt";
  }

  // Atoms over the image, as the figures draw them: sticks below, then balls from the lowest to the highest.
  function drawStructure({ defect, id }) {
    const one = defects.get(defect), { atoms, bonds } = scene.candidates[defect].find((each) => each.id === id);
    const canvas = over.querySelector("canvas"), ctx = canvas.getContext("2d"), [left, top, side] = square(one);
    const px = canvas.width, k = scene.shrunk, perA = px / side / scene.pixel_A;
    const at = ([x, y]) => [((x + 0.5 - left) / side) * px, ((y + 0.5 - top) / side) * px];
    const place = atoms.map(([, x, y]) => at([one.at[0] + x / scene.pixel_A, one.at[1] - y / scene.pixel_A]));
    ctx.imageSmoothingEnabled = false;
    ctx.drawImage(pictures.image, left / k, top / k, side / k, side / k, 0, 0, px, px);
    ctx.fillStyle = "rgb(0 0 0 / .35)";
    ctx.fillRect(0, 0, px, px);
    for (const [a, b] of bonds) {
      const middle = [(place[a][0] + place[b][0]) / 2, (place[a][1] + place[b][1]) / 2];
      stick(ctx, place[a], place[b], 0.2 * perA + 1.2, "#000");
      for (const end of [a, b]) stick(ctx, place[end], middle, 0.2 * perA, scene.elements[atoms[end][0]][0]);
    }
    const order = atoms.map((_, n) => n).sort((a, b) => atoms[a][3] - atoms[b][3]);
    for (const n of order) {
      const [colour, radius] = scene.elements[atoms[n][0]];
      ctx.beginPath();
      ctx.arc(...place[n], radius * perA, 0, 7);
      Object.assign(ctx, { fillStyle: colour, strokeStyle: "#000", lineWidth: 0.8 });
      ctx.fill();
      ctx.stroke();
    }
    outline(ctx, one, at);
    over.dataset.of = id;
  }

  function stick(ctx, from, to, width, colour) {
    Object.assign(ctx, { strokeStyle: colour, lineWidth: width });
    ctx.beginPath();
    ctx.moveTo(...from);
    ctx.lineTo(...to);
    ctx.stroke();
  }

  // Columns with the fitted profile of this image, core and tail, sampled as coarsely as the patch is shown.
  function rendered(columns, [left, top, side], n) {
    const light = new Float64Array(n * n), { core, tail, share } = scene.profile;
    const [[xx, xy], [, yy]] = core, det = xx * yy - xy * xy;
    const sharp = (1 - share) / (2 * Math.PI * Math.sqrt(det)), wide = share / (2 * Math.PI * tail * tail);
    for (let v = 0; v < n; v += 1)
      for (let u = 0; u < n; u += 1) {
        const px = left + ((u + 0.5) * side) / n - 0.5, py = top + ((v + 0.5) * side) / n - 0.5;
        let sum = 0;
        for (const [x, y, integral] of columns) {
          const dx = px - x, dy = py - y;
          const e = (yy * dx * dx - 2 * xy * dx * dy + xx * dy * dy) / det, r = (dx * dx + dy * dy) / (tail * tail);
          if (r < 25) sum += integral * (sharp * Math.exp(-e / 2) + wide * Math.exp(-r / 2));
        }
        light[v * n + u] = sum;
      }
    return light;
  }

  // Mean of the model's picture in a square, in units of the image.
  function meanOfModel([left, top, side]) {
    const n = 32, k = scene.shrunk, small = new OffscreenCanvas(n, n).getContext("2d", { willReadFrequently: true });
    small.drawImage(pictures.simulated, left / k, top / k, side / k, side / k, 0, 0, n, n);
    const grey = small.getImageData(0, 0, n, n).data;
    let sum = 0;
    for (let i = 0; i < grey.length; i += 4) sum += grey[i];
    const [low, high] = scene.grey;
    return low + ((high - low) * sum) / (n * n * 255);
  }

  // One level under all candidates of a defect: what is between the most probable one and the model of the image.
  function drawPatches(id, article) {
    const all = (scene.candidates[id] || []).filter((one) => one.columns), place = square(defects.get(id)), n = 72;
    if (!all.length) return;
    const lights = all.map((one) => rendered(one.columns, place, n));
    const ground = meanOfModel(place) - lights[0].reduce((a, b) => a + b) / (n * n), [low, high] = scene.grey;
    all.forEach((one, k) => {
      const canvas = page.element("canvas"), ctx = canvas.getContext("2d");
      [canvas.width, canvas.height] = [n, n];
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `Candidate ${one.id} drawn with the fitted profile`);
      const pixels = ctx.createImageData(n, n);
      lights[k].forEach((value, i) => {
        const grey = (255 * (value + ground - low)) / (high - low);
        pixels.data.set([grey, grey, grey, 255], 4 * i);
      });
      ctx.putImageData(pixels, 0, 0);
      article.querySelector(`tr[data-candidate="${CSS.escape(one.id)}"] .patch`)?.replaceChildren(canvas);
    });
  }

  page.hear("look", (which) => pictures.image.decode().then(() => drawStructure(which)));
  page.hear("pick", ({ id }) => {
    over.hidden = !scene.candidates[id];
    const article = document.getElementById(`defect-${id}`), ready = Object.values(pictures).map((one) => one.decode());
    Promise.all(ready).then(() => {
      for (const canvas of tiles) drawTile(canvas, defects.get(id));
      if (!article.dataset.drawn) drawPatches(id, article);
      article.dataset.drawn = "yes";
    });
  });
})();
