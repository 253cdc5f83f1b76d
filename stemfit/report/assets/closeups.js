"use strict";
// Close to one defect: image, model, residual; and every candidate as this image would show it.
(() => {
  const { scene, pictures, defects } = page;
  const tiles = [...document.querySelectorAll("[data-tile]")];
  const [rows, cols] = scene.shape;

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
    const at = ([x, y]) => [((x + 0.5 - left) / side) * px, ((y + 0.5 - top) / side) * px];
    for (const [colour, width, dash] of [["#000", 3, []], ["#fff", 1.8, [5, 4]]]) {
      Object.assign(ctx, { strokeStyle: colour, lineWidth: width });
      ctx.setLineDash(dash);
      for (const ring of one.rings) {
        ctx.beginPath();
        for (const point of ring) ctx.lineTo(...at(point));
        ctx.stroke();
      }
    }
    ctx.setLineDash([]);
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

  page.hear("pick", ({ id }) => {
    const article = document.getElementById(`defect-${id}`), ready = Object.values(pictures).map((one) => one.decode());
    Promise.all(ready).then(() => {
      for (const canvas of tiles) drawTile(canvas, defects.get(id));
      if (!article.dataset.drawn) drawPatches(id, article);
      article.dataset.drawn = "yes";
    });
  });
})();
