// The gallery: filters, order, and cards that are filled when they come near the window.

const galleries = [];

class Gallery {
  constructor(section) {
    const group = gallery.groups[Number(section.dataset.gallery)];
    this.section = section;
    this.methods = group.methods.map((method, key) => ({ ...method, key }));
    this.cards = section.querySelector(".cards");
    this.place = new Map();
    this.visible = [];
    this.watch = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) if (isIntersecting) this.fill(target);
    }, { rootMargin: "800px" });
    for (const item of group.items) this.place.set(item, this.card(item));
    this.items = group.items;
    section.querySelector(".tools").addEventListener("change", () => this.update());
    this.legend();
    this.update();
  }

  field(name) {
    return this.section.querySelector(`[name="${name}"]`);
  }

  chosen() {
    const boxes = [...this.section.querySelectorAll('[name="method"]')];
    return this.methods.filter((_, i) => boxes[i].checked);
  }

  card(item) {
    const open = element(
      "button", { type: "button", class: "open", "aria-haspopup": "dialog" },
      element("span", { class: "id" }, item.id), element("span", { class: "type" }, item.type),
      element("span", { class: "sum" }),
    );
    const card = element("article", { class: "card" }, open, element("div", { class: "panes" }));
    open.addEventListener("click", () => this.open(item, 0));
    return card;
  }

  open(item, method) {
    const methods = this.chosen();
    if (!methods.length) return;
    openView(this.visible, methods, this.visible.indexOf(item), method, (last) => this.focus(last));
  }

  fill(card) {
    this.watch.unobserve(card);
    const item = this.visible.find((one) => this.place.get(one) === card);
    if (!item) return;
    const panes = card.querySelector(".panes");
    const methods = this.chosen();
    panes.replaceChildren(pane(item, null, null, false), ...methods.map((m) => pane(item, m, item.predictions[m.key], false)));
    panes.classList.toggle("many", methods.length > 6);
    [...panes.children].forEach((one, i) => {
      one.querySelector(".stack").addEventListener("click", () => this.open(item, Math.max(0, i - 1)));
    });
  }

  wrongs(item, methods) {
    return methods.filter((m) => isWrong(item, item.predictions[m.key])).length;
  }

  update() {
    const methods = this.chosen();
    const type = this.field("type").value;
    const wrongOnly = this.field("wrong").checked;
    const [order, key] = this.field("sort").value.split(" ");
    this.visible = this.items.filter(
      (item) => (!type || item.type === type) && (!wrongOnly || this.wrongs(item, methods)),
    );
    const score = (item) => item.predictions[Number(key)].score;
    if (order === "high") this.visible.sort((a, b) => score(b) - score(a));
    if (order === "low") this.visible.sort((a, b) => score(a) - score(b));
    if (order === "wrong") this.visible.sort((a, b) => this.wrongs(b, methods) - this.wrongs(a, methods));
    this.watch.disconnect();
    for (const item of this.visible) {
      const card = this.place.get(item);
      const wrong = this.wrongs(item, methods);
      const sum = card.querySelector(".sum");
      sum.textContent = wrong ? `${wrong} of ${methods.length} wrong` : methods.length ? "all correct" : "";
      sum.classList.toggle("bad", wrong > 0);
      card.querySelector(".panes").replaceChildren();
      this.watch.observe(card);
    }
    this.cards.replaceChildren(...this.visible.map((item) => this.place.get(item)));
    this.section.querySelector(".count").textContent = `${this.visible.length} of ${this.items.length} images`;
    this.section.querySelector(".nothing").hidden = this.visible.length > 0;
  }

  legend() {
    const list = this.section.querySelector(".heats");
    for (const method of this.methods) {
      if (!method.heat_ranges.length) continue;
      const ends = [0, 1].map((end) => {
        const values = method.heat_ranges.map((range) => range[end]);
        const [low, high] = [Math.min(...values), Math.max(...values)];
        return low === high ? number(low) : `${number(low)}–${number(high)}`;
      });
      list.append(element("li", {}, `${method.name}: ${ends[0]}`, element("i", { role: "img", "aria-label": "to" }), ends[1]));
    }
  }

  focus(item) {
    const card = this.place.get(item);
    if (!card || !card.isConnected) return;
    card.scrollIntoView({ block: "nearest" });
    card.querySelector(".open").focus();
  }

  // Step from the card that has the focus, else to the first.
  step(by) {
    const at = this.visible.findIndex((item) => this.place.get(item).contains(document.activeElement));
    const next = at < 0 ? (by > 0 ? 0 : this.visible.length - 1) : Math.max(0, Math.min(this.visible.length - 1, at + by));
    if (this.visible[next]) this.focus(this.visible[next]);
  }
}

for (const section of document.querySelectorAll("[data-gallery]")) galleries.push(new Gallery(section));

function nearestGallery() {
  const focused = galleries.find((one) => one.section.contains(document.activeElement));
  const seen = galleries.find((one) => one.section.getBoundingClientRect().bottom > 0);
  return focused || seen || galleries[galleries.length - 1];
}

// Where the page moves between press and release (a plot or card above is drawn just then), browsers send
// the click to what the two places have in common: give it to the control that was pressed.
let pressed = null;
document.addEventListener("pointerdown", (event) => {
  const control = event.target.closest("button, label, .stack");
  pressed = control && { control, x: event.clientX, y: event.clientY };
}, true);
document.addEventListener("click", (event) => {
  if (!pressed) return;
  const { control, x, y } = pressed;
  pressed = null;
  const moved = Math.hypot(event.clientX - x, event.clientY - y) > 4;
  if (!moved && event.target !== control && event.target.contains(control)) control.click();
}, true);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target.tagName === "SELECT") return;
  if (event.key in LAYERS) toggleLayer(LAYERS[event.key]);
  else if (!viewer.open && (event.key === "j" || event.key === "k")) nearestGallery().step(event.key === "j" ? 1 : -1);
});
