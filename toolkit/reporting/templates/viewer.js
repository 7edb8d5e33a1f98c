// Pictures with their layers, and the large view that steps through them.

const gallery = data("gallery-data");
const LAYERS = { t: "truth", b: "boxes", m: "masks", h: "heat" };
const SVG = "http://www.w3.org/2000/svg";
const urls = new Map();

function pictureUrl(key, base64) {
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

function isWrong(item, answer) {
  return answer.flagged !== undefined && answer.flagged !== item.defect;
}

function verdict(item, answer) {
  if (answer.flagged === undefined) return "no threshold";
  if (isWrong(item, answer)) return item.defect ? "✗ missed" : "✗ false alarm";
  return item.defect ? "✓ found" : "✓ passed";
}

function describe(item, method, answer) {
  const truth = `${item.id}, ${item.defect ? "defective: " + item.type : "good"}`;
  if (!answer) return `Test image ${truth}${item.defect ? "; the true defect is outlined" : ""}`;
  const layers = [
    answer.heat ? "heat map" : null,
    answer.mask !== undefined ? (answer.mask ? "predicted mask" : "empty mask") : null,
    answer.boxes ? `${answer.boxes.length} ${answer.boxes.length === 1 ? "box" : "boxes"}` : null,
  ].filter(Boolean);
  const shown = layers.length ? `; shown: ${layers.join(", ")}` : "";
  return `${method.name} on ${truth}: score ${number(answer.score)}, ${verdict(item, answer).slice(2)}${shown}`;
}

function layered(item, method, answer, large) {
  const picture = gallery.images[item.image];
  const { width, height } = picture;
  const stack = element("div", { class: "stack", style: `aspect-ratio: ${width} / ${height}` });
  stack.append(element("img", {
    src: pictureUrl(item.image, picture.webp), alt: describe(item, method, answer), decoding: "async",
  }));
  if (answer && answer.heat) {
    const key = `${method.name} ${method.key} ${item.image}`;
    stack.append(element("img", { class: "heat-layer", src: pictureUrl(key, answer.heat), alt: "", decoding: "async" }));
  }
  const drawing = svgElement("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const layer = (name, ...shapes) => {
    const group = svgElement("g", { class: `${name}-layer` });
    group.append(...shapes);
    drawing.append(group);
  };
  if (answer && answer.mask) layer("mask", svgElement("path", { class: "mask", d: answer.mask }));
  if (picture.truth) layer("truth", svgElement("path", { class: "truth", d: picture.truth }));
  if (answer && answer.boxes) {
    for (const [x0, y0, x1, y1, score, label] of [...answer.boxes].reverse()) {
      const shapes = [svgElement("rect", { class: "box", x: x0, y: y0, width: x1 - x0, height: y1 - y0 })];
      if (large) {
        const size = width / 34;
        const words = `${label} ${score.toFixed(2)}`;
        const wide = words.length * size * 0.58 + size * 0.6;
        const x = Math.max(0, Math.min(x0, width - wide));
        const y = Math.max(0, y0 - size * 1.35);
        shapes.push(svgElement("rect", { class: "tag", x, y, width: wide, height: size * 1.35 }));
        const text = svgElement("text", { x: x + size * 0.3, y: y + size, "font-size": size });
        text.textContent = words;
        shapes.push(text);
      }
      layer("box", ...shapes);
    }
  }
  stack.append(drawing);
  return stack;
}

function pane(item, method, answer, large) {
  const wrong = answer && isWrong(item, answer);
  const caption = element("figcaption", {}, element("b", {}, method ? method.name : "truth"));
  if (answer) {
    caption.append(
      `${number(answer.score)} `,
      element("span", { class: wrong ? "verdict wrong" : "verdict" }, verdict(item, answer)),
    );
    if (answer.said && answer.said[0] !== item.type) caption.append(element("span", { class: "verdict" }, `, said ${answer.said[0]}`));
  } else caption.append(item.type);
  return element("figure", { class: wrong ? "pane wrong" : "pane" }, layered(item, method, answer, large), caption);
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
  const answer = item.by[method.key];
  const picture = gallery.images[item.image];
  document.getElementById("viewer-title").textContent = `${item.id} · ${item.type}`;
  viewer.querySelector(".place").textContent = `${view.at + 1} of ${view.items.length}`;
  const stage = viewer.querySelector(".stage");
  stage.style.setProperty("--ratio", picture.width / picture.height);
  stage.replaceChildren(pane(item, null, null, true), pane(item, method, answer, true));
  viewerMethod.value = String(view.method);
  const facts = [
    fact("score", number(answer.score)),
    fact("threshold", answer.threshold === null ? "none" : number(answer.threshold)),
    fact("answer", element("span", { class: isWrong(item, answer) ? "verdict wrong" : "" }, verdict(item, answer))),
  ];
  if (answer.said) facts.push(fact("class", `${answer.said[0]} (${(100 * answer.said[1]).toFixed(0)} %)`));
  if (answer.heat_range) {
    const [low, high] = answer.heat_range;
    facts.push(fact("heat", number(low), element("i", { class: "heat-key" }), number(high)));
  }
  viewer.querySelector(".answer").replaceChildren(...metadata);
  // Not `disabled`: the button would lose the focus, and the page behind would get the keys.
  const ends = { previous: 0, next: view.items.length - 1 };
  for (const [name, end] of Object.entries(ends)) {
    viewer.querySelector(`[data-go="${name}"]`).setAttribute("aria-disabled", String(view.at === end));
  }
  document.getElementById("viewer-said").textContent = describe(item, method, answer);
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
    if (isWrong(view.items[at], view.items[at].by[key])) {
      view.at = at;
      showView();
      return;
    }
  }
  document.getElementById("viewer-said").textContent = "no wrong answer";
}

const GO = { previous: () => step(-1), next: () => step(1), close: () => viewer.close() };
for (const button of viewer.querySelectorAll("[data-go]")) button.addEventListener("click", () => GO[button.dataset.go]());
viewerMethod.addEventListener("change", () => { view.method = Number(viewerMethod.value); showView(); });
viewer.addEventListener("close", () => { if (view.onClose) view.onClose(view.items[view.at]); });
viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });

const VIEW_KEYS = {
  ArrowLeft: () => step(-1), ArrowRight: () => step(1),
  ArrowUp: () => stepMethod(-1), ArrowDown: () => stepMethod(1),
  Home: () => step(-Infinity), End: () => step(Infinity), w: nextWrong,
};
document.addEventListener("keydown", (event) => {
  if (!viewer.open || event.ctrlKey || event.altKey || event.metaKey || event.target.tagName === "SELECT") return;
  if (!(event.key in VIEW_KEYS)) return;
  event.preventDefault();
  VIEW_KEYS[event.key]();
});
