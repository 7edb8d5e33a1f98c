// Images with their layers, and the dialog that steps through them.

const gallery = data("gallery-data");
const LAYERS = { t: "truth", b: "boxes", m: "masks", h: "heat" };
const SVG = "http://www.w3.org/2000/svg";
const urls = new Map();

function imageUrl(key, base64) {
  if (!urls.has(key)) {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    urls.set(key, URL.createObjectURL(new Blob([bytes], { type: "image/webp" })));
  }
  return urls.get(key);
}

function svgElement(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function number(value) {
  const size = Math.abs(value);
  return size !== 0 && (size < 0.001 || size >= 1e5) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

function isWrong(item, prediction) {
  return prediction.flagged !== undefined && prediction.flagged !== item.defect;
}

function verdict(item, prediction) {
  if (prediction.flagged === undefined) return "no threshold";
  if (isWrong(item, prediction)) return item.defect ? "✗ missed" : "✗ false alarm";
  return item.defect ? "✓ found" : "✓ passed";
}

function describe(item, method, prediction) {
  const truth = `${item.id}, ${item.defect ? "defective: " + item.type : "good"}`;
  if (!prediction) return `Test image ${truth}${item.defect ? "; the true defect is outlined" : ""}`;
  const layers = [
    prediction.heat ? "heat map" : null,
    prediction.mask !== undefined ? (prediction.mask ? "predicted mask" : "empty mask") : null,
    prediction.boxes ? `${prediction.boxes.length} ${prediction.boxes.length === 1 ? "box" : "boxes"}` : null,
  ].filter(Boolean);
  const listed = layers.length ? `; layers: ${layers.join(", ")}` : "";
  return `${method.name} on ${truth}: score ${number(prediction.score)}, ${verdict(item, prediction).slice(2)}${listed}`;
}

function imageStack(item, method, prediction, large) {
  const image = gallery.images[item.image];
  const { width, height } = image;
  const stack = element("div", { class: "stack", style: `aspect-ratio: ${width || 1} / ${height || 1}` });
  const alt = describe(item, method, prediction);
  if (image.webp) stack.append(element("img", { src: imageUrl(image, image.webp), alt, decoding: "async" }));
  else stack.append(element("span", { class: "missing", role: "img", "aria-label": `${alt}; image not found` }, "image not found"));
  if (prediction && prediction.heat) {
    stack.append(element("img", { class: "heat-layer", src: imageUrl(prediction, prediction.heat), alt: "", decoding: "async" }));
  }
  if (!width) return stack;
  const svg = svgElement("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const layer = (name, ...shapes) => {
    const group = svgElement("g", { class: `${name}-layer` });
    group.append(...shapes);
    svg.append(group);
  };
  if (prediction && prediction.mask) layer("mask", svgElement("path", { class: "mask", d: prediction.mask }));
  if (image.truth) layer("truth", svgElement("path", { class: "truth", d: image.truth }));
  if (prediction && prediction.boxes) {
    for (const [x0, y0, x1, y1, score, label] of [...prediction.boxes].reverse()) {
      const shapes = [svgElement("rect", { class: "box", x: x0, y: y0, width: x1 - x0, height: y1 - y0 })];
      if (large) {
        const size = width / 34;
        const text = `${label} ${score.toFixed(2)}`;
        const wide = text.length * size * 0.58 + size * 0.6;
        const x = Math.max(0, Math.min(x0, width - wide));
        const y = Math.max(0, y0 - size * 1.35);
        shapes.push(svgElement("rect", { class: "tag", x, y, width: wide, height: size * 1.35 }));
        const tag = svgElement("text", { x: x + size * 0.3, y: y + size, "font-size": size });
        tag.textContent = text;
        shapes.push(tag);
      }
      layer("box", ...shapes);
    }
  }
  stack.append(svg);
  return stack;
}

function pane(item, method, prediction, large) {
  const wrong = prediction && isWrong(item, prediction);
  const caption = element("figcaption", {}, element("b", {}, method ? method.name : "truth"));
  if (prediction) {
    caption.append(
      `${number(prediction.score)} `,
      element("span", { class: wrong ? "verdict wrong" : "verdict" }, verdict(item, prediction)),
    );
    const [label] = prediction.pred_class || [item.type];
    if (label !== item.type) caption.append(element("span", { class: "verdict" }, `, class ${label}`));
  } else caption.append(item.type);
  return element("figure", { class: wrong ? "pane wrong" : "pane" }, imageStack(item, method, prediction, large), caption);
}

const layersOff = new Set();

function toggleLayer(name) {
  if (layersOff.has(name)) layersOff.delete(name);
  else layersOff.add(name);
  root.classList.toggle(`off-${name}`, layersOff.has(name));
  for (const button of document.querySelectorAll(`[data-layer="${name}"]`)) {
    button.setAttribute("aria-pressed", String(!layersOff.has(name)));
  }
}

for (const button of document.querySelectorAll("[data-layer]")) {
  button.addEventListener("click", () => toggleLayer(button.dataset.layer));
}

const viewer = document.getElementById("viewer");
const viewerMethod = document.getElementById("viewer-method");
const view = { group: null, items: [], methods: [], at: 0, method: 0, onClose: null };

function fact(name, ...content) {
  return element("div", {}, element("dt", {}, name), element("dd", {}, ...content));
}

function showView() {
  const item = view.items[view.at];
  const method = view.methods[view.method];
  const prediction = item.predictions[method.key];
  const image = gallery.images[item.image];
  document.getElementById("viewer-title").textContent = `${item.id} · ${item.type}`;
  viewer.querySelector(".place").textContent = `${view.at + 1} of ${view.items.length}`;
  const stage = viewer.querySelector(".stage");
  stage.style.setProperty("--ratio", (image.width || 1) / (image.height || 1));
  stage.replaceChildren(pane(item, null, null, true), pane(item, method, prediction, true));
  viewerMethod.value = String(view.method);
  const facts = [
    fact("score", number(prediction.score)),
    fact("threshold", prediction.threshold === null ? "none" : number(prediction.threshold)),
    fact("decision", element("span", { class: isWrong(item, prediction) ? "verdict wrong" : "" }, verdict(item, prediction))),
  ];
  if (prediction.pred_class) {
    const [label, probability] = prediction.pred_class;
    facts.push(fact("class", `${label} (${(100 * probability).toFixed(0)} %)`));
  }
  if (prediction.heat_range) {
    const [low, high] = prediction.heat_range;
    facts.push(fact("heat", number(low), element("i", { class: "heat-key" }), number(high)));
  }
  viewer.querySelector("dl.prediction").replaceChildren(...facts);
  // Not `disabled`: the button would lose the focus, and keys would go to the page behind.
  const ends = { previous: 0, next: view.items.length - 1 };
  for (const [name, end] of Object.entries(ends)) {
    viewer.querySelector(`[data-go="${name}"]`).setAttribute("aria-disabled", String(view.at === end));
  }
  document.getElementById("viewer-status").textContent = describe(item, method, prediction);
}

function openView(items, methods, at, method, onClose) {
  Object.assign(view, { items, methods, at, method, onClose });
  viewerMethod.replaceChildren(...methods.map((one, i) => element("option", { value: i }, one.name)));
  showView();
  if (!viewer.open) viewer.showModal();
}

function step(by) {
  view.at = Math.max(0, Math.min(view.items.length - 1, view.at + by));
  showView();
}

function stepMethod(by) {
  view.method = (view.method + by + view.methods.length) % view.methods.length;
  showView();
}

function nextWrong() {
  const { key } = view.methods[view.method];
  for (let i = 1; i <= view.items.length; i += 1) {
    const at = (view.at + i) % view.items.length;
    if (isWrong(view.items[at], view.items[at].predictions[key])) {
      view.at = at;
      showView();
      return;
    }
  }
  document.getElementById("viewer-status").textContent = "no wrong prediction";
}

const GO = { previous: () => step(-1), next: () => step(1), close: () => viewer.close() };
for (const button of viewer.querySelectorAll("[data-go]")) button.addEventListener("click", () => GO[button.dataset.go]());
viewerMethod.addEventListener("change", () => { view.method = Number(viewerMethod.value); showView(); });
viewer.addEventListener("close", () => { if (view.onClose) view.onClose(view.items[view.at]); });
// A click on the backdrop closes the dialog; one on its own padding does not.
viewer.addEventListener("click", (event) => {
  const { left, right, top, bottom } = viewer.getBoundingClientRect();
  const inside = left <= event.clientX && event.clientX <= right && top <= event.clientY && event.clientY <= bottom;
  if (event.target === viewer && !inside) viewer.close();
});

const VIEW_KEYS = {
  ArrowLeft: () => step(-1), ArrowRight: () => step(1),
  ArrowUp: () => stepMethod(-1), ArrowDown: () => stepMethod(1),
  Home: () => step(-Infinity), End: () => step(Infinity), w: nextWrong,
};
// While the list of methods has the focus, these keys move within it.
const LIST_KEYS = new Set(["ArrowUp", "ArrowDown", "Home", "End"]);
document.addEventListener("keydown", (event) => {
  if (!viewer.open || event.ctrlKey || event.altKey || event.metaKey || !(event.key in VIEW_KEYS)) return;
  if (event.target.tagName === "SELECT" && LIST_KEYS.has(event.key)) return;
  event.preventDefault();
  VIEW_KEYS[event.key]();
});
