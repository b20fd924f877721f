/* What can be saved: the map as an image, its values as a table, the question with its answer as JSON. */

/** A text for a CSV table: no spreadsheet runs it as a formula. */
function csvCell(value) {
  if (typeof value === "number") return String(value);
  const safe = /^'*[=+\-@\t\r\n]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** A CSV table of rows, with a header. */
function csvOf(columns, rows) {
  return [columns, ...rows].map((row) => `${row.map(csvCell).join(",")}\r\n`).join("");
}

/** Let the browser save some content as a file. */
function save(content, ending) {
  const parts = [page.images[state.image].name.replace(/\.\w+$/, ""), page.names[state.target]];
  const name = parts.map((part) => short(part.replace(/[^\p{L}\p{N}._-]+/gu, "-"), 60)).join("-");
  const link = element("a", { href: URL.createObjectURL(content), download: `${name}.${ending}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** A place of the small image in pixels of the image itself. */
function original(image, numbers) {
  const factors = [image.size[1] / image.width, image.size[0] / image.height];
  return numbers.map((value, k) => value * factors[k % 2]);
}

function asCsv() {
  const image = page.images[state.image];
  const rows = shownMaps().flatMap(({ concept, references, map }) =>
    Array.from(map, (value, n) => {
      const others = references.map((k) => page.names[k]).join("; ");
      const place = [Math.floor(n / image.grid[1]), n % image.grid[1], ...original(image, centreOf(image, n))];
      return [image.name, page.names[concept], others, state.strength, ...place, value];
    }),
  );
  return csvOf(["image", "target", "references", "strength", "row", "column", "x", "y", "value"], rows);
}

function asJson() {
  const image = page.images[state.image];
  const maps = shownMaps().map(({ concept, references, map, boxes, peak }) => ({
    target: page.names[concept],
    references: references.map((k) => page.names[k]),
    strength: state.strength,
    peak: original(image, peak),
    boxes: boxes.map((box) => original(image, box)),
    threshold: state.threshold,
    map: Array.from({ length: image.grid[0] }, (_, r) => Array.from(map.slice(r * image.grid[1], (r + 1) * image.grid[1]))),
  }));
  return `${JSON.stringify({ image: image.name, size: image.size, maps }, null, 1)}\n`;
}

function savePng() {
  const shown = views.filter((view) => !view.figure.hidden).map((view) => view.canvas);
  const all = element("canvas", { width: shown.length * shown[0].width, height: shown[0].height });
  shown.forEach((canvas, k) => all.getContext("2d").drawImage(canvas, k * canvas.width, 0));
  all.toBlob((content) => save(content, "png"));
}
