// Segments a photo with the graphs that `ovseg export` writes, by onnxruntime-web. See README.md for how to serve it.
import * as ort from "./ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = "./";
ort.env.wasm.numThreads = 1; // more need a page that is isolated from other origins

const COLOURS = [[0, 114, 178], [230, 159, 0], [0, 158, 115], [204, 121, 167], [213, 94, 0], [86, 180, 233]];
const status = document.getElementById("status");

const read = async (name) => (await fetch(name)).json();

async function load() {
  const [model, words] = await Promise.all([read("model.json"), read("words.json")]);
  const [image, head] = await Promise.all(["image.onnx", "head.onnx"].map((name) => ort.InferenceSession.create(name)));
  return { model, words, image, head };
}

// Height and width that the model runs at: the short side as it states, both multiples of what it needs.
function workingSize(height, width, { short_side, max_long_side, multiple }) {
  const scale = Math.min(short_side / Math.min(height, width), max_long_side / Math.max(height, width));
  return [height, width].map((side) => Math.max(1, Math.round((side * scale) / multiple)) * multiple);
}

// (1, 3, H, W) float32, normalised.
function toPixels(bitmap, [height, width], { mean, std }) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  const bytes = context.getImageData(0, 0, width, height).data;
  const values = new Float32Array(3 * height * width);
  for (let place = 0; place < height * width; place++)
    for (let c = 0; c < 3; c++) values[c * height * width + place] = (bytes[4 * place + c] / 255 - mean[c]) / std[c];
  return new ort.Tensor("float32", values, [1, 3, height, width]);
}

// Probabilities of (Q, cells) logits over the phrases, in place.
function softmax(logits, count, cells) {
  for (let cell = 0; cell < cells; cell++) {
    let most = -Infinity, total = 0;
    for (let q = 0; q < count; q++) most = Math.max(most, logits[q * cells + cell]);
    for (let q = 0; q < count; q++) total += logits[q * cells + cell] = Math.exp(logits[q * cells + cell] - most);
    for (let q = 0; q < count; q++) logits[q * cells + cell] /= total;
  }
}

// The most probable phrase of each pixel; probabilities are interpolated between the centres of cells.
function winners(maps, [count, rows, columns], [height, width]) {
  const found = new Int32Array(height * width), cells = rows * columns;
  for (let y = 0; y < height; y++) {
    const top = Math.min(Math.max(((y + 0.5) * rows) / height - 0.5, 0), rows - 1), r = Math.floor(top), dy = top - r;
    const below = Math.min(r + 1, rows - 1);
    for (let x = 0; x < width; x++) {
      const left = Math.min(Math.max(((x + 0.5) * columns) / width - 0.5, 0), columns - 1), c = Math.floor(left);
      const dx = left - c, right = Math.min(c + 1, columns - 1);
      let best = -1;
      for (let q = 0; q < count; q++) {
        const at = (row, column) => maps[q * cells + row * columns + column];
        const value = (1 - dy) * ((1 - dx) * at(r, c) + dx * at(r, right))
          + dy * ((1 - dx) * at(below, c) + dx * at(below, right));
        if (value > best) { best = value; found[y * width + x] = q; }
      }
    }
  }
  return found;
}

function paint(bitmap, found, labelOf, labels, [height, width]) {
  const canvas = document.getElementById("result");
  [canvas.height, canvas.width] = [height, width];
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0, width, height);
  const picture = context.getImageData(0, 0, width, height), areas = labels.map(() => 0);
  for (let place = 0; place < found.length; place++) {
    const label = labelOf[found[place]];
    if (label < 0) continue;
    areas[label]++;
    for (let c = 0; c < 3; c++)
      picture.data[4 * place + c] = 0.5 * picture.data[4 * place + c] + 0.5 * COLOURS[label % COLOURS.length][c];
  }
  context.putImageData(picture, 0, 0);
  document.getElementById("areas").replaceChildren(...labels.map((label, number) => {
    const row = document.createElement("tr"), colour = document.createElement("i");
    colour.style.background = `rgb(${COLOURS[number % COLOURS.length]})`;
    const name = document.createElement("td"), share = document.createElement("td");
    name.append(colour, ` ${label}`);
    share.append(`${((100 * areas[number]) / found.length).toFixed(1)} %`);
    row.append(name, share);
    return row;
  }));
}

const ready = load();
ready.then(() => (status.textContent = "Ready."), (error) => (status.textContent = `Cannot load the model: ${error.message}`));

document.getElementById("photo").addEventListener("change", async ({ target }) => {
  try {
    const { model, words, image, head } = await ready;
    const bitmap = await createImageBitmap(target.files[0]);
    const size = workingSize(bitmap.height, bitmap.width, model.preprocessing);
    status.textContent = "Segmenting …";
    const { values } = await image.run({ pixels: toPixels(bitmap, size, model.preprocessing) });
    const text = new ort.Tensor("float32", Float32Array.from(words.vectors.flat()), [words.vectors.length, words.vectors[0].length]);
    const { logits } = await head.run({ values, text });
    const [, count, rows, columns] = logits.dims;
    softmax(logits.data, count, rows * columns);
    paint(bitmap, winners(logits.data, [count, rows, columns], size), words.label_of, words.labels, size);
    status.textContent = "Done.";
  } catch (error) {
    status.textContent = `This photo cannot be segmented: ${error.message}`;
  }
});
