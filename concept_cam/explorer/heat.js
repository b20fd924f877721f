/* Heat: a map on the pixels of the small image, in colour, with boxes. */

const palettes = {
  ember: { title: "Fire", stops: [[70, 0, 90], [190, 20, 90], [250, 90, 30], [255, 190, 40], [255, 250, 170]] },
  cividis: { title: "Cividis", stops: [[0, 32, 76], [87, 93, 109], [124, 123, 120], [166, 157, 117], [255, 234, 70]] },
  viridis: { title: "Viridis", stops: [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]] },
  signed: {
    title: "For and against",
    stops: [[230, 159, 0], [230, 120, 0], [213, 94, 0]],
    against: [[86, 180, 233], [0, 114, 178], [0, 80, 140]],
  },
};

/** The colour at a share from 0 to 1 of a palette. */
function colourAt(stops, share) {
  const position = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const k = Math.min(Math.floor(position), stops.length - 2);
  return stops[k].map((from, channel) => from + (position - k) * (stops[k + 1][channel] - from));
}

/** For each pixel of a side the two cells that it lies between and the share of the second; null where the model saw nothing. */
function between(pixels, start, stop, cells, [from, to], smooth) {
  return Array.from({ length: pixels }, (_, p) => {
    if (p + 1 <= from || p >= to) return null;
    const place = ((p + 0.5 - start) / (stop - start)) * cells - 0.5;
    const position = Math.min(Math.max(smooth ? place : Math.round(place), 0), cells - 1);
    const first = Math.floor(position);
    return [first, Math.min(first + 1, cells - 1), position - first];
  });
}

/** A map on the pixels of the small image: bilinear or in cells; NaN where the model did not see the image. */
function heatOf(image, map, smooth) {
  const [rows, cols] = image.grid;
  const [left, top, right, bottom] = image.cells;
  const down = between(image.height, top, bottom, rows, [image.window[1], image.window[3]], smooth);
  const across = between(image.width, left, right, cols, [image.window[0], image.window[2]], smooth);
  const heat = new Float32Array(image.width * image.height).fill(NaN);
  const line = new Float64Array(cols);
  down.forEach((pair, y) => {
    if (!pair) return;
    const [a, b, share] = pair;
    for (let c = 0; c < cols; c++) line[c] = (1 - share) * map[a * cols + c] + share * map[b * cols + c];
    for (let x = 0; x < image.width; x++) {
      const at = across[x];
      if (at) heat[y * image.width + x] = (1 - at[2]) * line[at[0]] + at[2] * line[at[1]];
    }
  });
  return heat;
}

/** The largest value of some heat, or 0. */
function hottest(heat) {
  let most = 0;
  for (let p = 0; p < heat.length; p++) if (heat[p] > most) most = heat[p];
  return most;
}

/** 256 colours with their opacity, from no evidence to the most. */
function table(stops) {
  return Array.from({ length: 256 }, (_, k) => [...colourAt(stops, k / 255), 0.88 * Math.min(1, (1.6 * k) / 255)]);
}

/** The pixels of an image in calm grey, on which heat is drawn. */
function calmed({ data }) {
  return data.map((own, p) => {
    const first = p - (p % 4);
    return p % 4 === 3 ? 255 : 0.45 * own + 0.55 * (0.25 * (data[first] + data[first + 1] + data[first + 2]) + 45);
  });
}

/** Draw heat on the image: strong evidence is bright and opaque, the rest is the image in grey, the unseen dark. */
function drawHeat(context, pixels, heat, most, palette) {
  const mixed = context.createImageData(pixels.width, pixels.height);
  const out = mixed.data;
  out.set((pixels.calm ??= calmed(pixels)));
  const above = (palette.above ??= table(palette.stops));
  const below = palette.against && (palette.below ??= table(palette.against));
  for (let p = 0; p < heat.length; p++) {
    const value = heat[p];
    if (Number.isNaN(value)) {
      for (let k = 4 * p; k < 4 * p + 3; k++) out[k] = 0.4 * pixels.data[k];
      continue;
    }
    const colours = value > 0 ? above : below;
    if (!colours || !most) continue;
    const colour = colours[Math.round(Math.min(Math.abs(value) / most, 1) * 255)];
    for (let k = 0; k < 3; k++) out[4 * p + k] = (1 - colour[3]) * out[4 * p + k] + colour[3] * colour[k];
  }
  context.putImageData(mixed, 0, 0);
}

/** The boxes (left, top, right, bottom) around the 4-connected regions of at least some heat, the strongest first. */
function boxesOf(image, heat, least) {
  const { width, height } = image;
  const open = new Uint8Array(heat.length);
  for (let p = 0; p < heat.length; p++) open[p] = heat[p] >= least;
  const found = [];
  for (let start = open.indexOf(1); start >= 0; start = open.indexOf(1, start)) {
    const queue = [start];
    let [left, top, right, bottom, most] = [width, height, 0, 0, 0];
    open[start] = 0;
    while (queue.length) {
      const p = queue.pop();
      const x = p % width;
      const y = (p - x) / width;
      left = Math.min(left, x);
      top = Math.min(top, y);
      right = Math.max(right, x + 1);
      bottom = Math.max(bottom, y + 1);
      most = Math.max(most, heat[p]);
      // Beyond the first and the last row there is nothing that is open.
      const visit = (next) => open[next] && queue.push(next) && (open[next] = 0);
      if (x > 0) visit(p - 1);
      if (x < width - 1) visit(p + 1);
      visit(p - width);
      visit(p + width);
    }
    found.push({ box: [left, top, right, bottom], most });
  }
  return found.sort((a, b) => b.most - a.most).map(({ box }) => box);
}

/** Draw boxes, a ring around the peak and a cross at a place: white on black, to be seen on any image. */
function drawMarks(context, image, boxes, peak, place) {
  for (const [colour, width] of [["#000", 4], ["#fff", 2]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    for (const [left, top, right, bottom] of boxes) context.strokeRect(left + 1, top + 1, right - left - 2, bottom - top - 2);
    context.beginPath();
    if (peak !== null) {
      const [x, y] = peak;
      context.moveTo(x + 6, y);
      context.arc(x, y, 6, 0, 2 * Math.PI);
    }
    if (place !== null) {
      const [x, y] = centreOf(image, place);
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(x + 4 * dx, y + 4 * dy);
        context.lineTo(x + 13 * dx, y + 13 * dy);
      }
    }
    context.stroke();
  }
}
