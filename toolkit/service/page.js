
const by = (id) => document.getElementById(id);
const state = { plain: "", overlay: "", id: "", own: "", showing: true, stream: null, busy: false };

function headers() {
  const token = sessionStorage.getItem("token");
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function ask(address, options = {}) {
  const answer = await fetch(address, { ...options, headers: { ...headers(), ...options.headers } });
  by("login").hidden = answer.status !== 401;
  return answer;
}

function figure(value, digits = 4) {
  return typeof value === "number" ? String(Number(value.toPrecision(digits))) : "–";
}

function draw() {
  const picture = state.showing && state.overlay ? state.overlay : state.plain;
  by("shown").src = picture;
  by("shown").hidden = !picture;
  by("hint").hidden = Boolean(picture) || Boolean(state.stream);
  by("video").hidden = !state.stream || Boolean(picture);
  by("stage").classList.toggle("filled", Boolean(picture) || Boolean(state.stream));
  by("toggle").disabled = !state.overlay;
  by("toggle").setAttribute("aria-pressed", String(state.showing));
}

function decide(answer) {
  by("verdict").hidden = false;
  by("decision").textContent = answer.decision;
  by("decision").className = answer.decision;
  by("reason").textContent = answer.reason || "";
  by("score").textContent = figure(answer.score);
  by("threshold").textContent = figure(answer.threshold);
  by("pvalue").textContent = figure(answer.p_value, 2);
  by("latency").textContent = typeof answer.latency_ms === "number" ? `${Math.round(answer.latency_ms)} ms` : "–";
  by("thanks").textContent = "";
  state.id = answer.id || "";
  for (const id of ["good", "defect"]) by(id).disabled = !state.id;
}

async function inspect(blob) {
  if (state.busy) return;
  state.busy = true;
  if (state.own) URL.revokeObjectURL(state.own);
  state.plain = state.own = URL.createObjectURL(blob);
  state.overlay = "";
  draw();
  try {
    const form = new FormData();
    form.append("image", blob, blob.name || "camera.png");
    const answer = await ask("predict?include=overlay", { method: "POST", body: form });
    const found = await answer.json();
    const first = (found.results || [])[0] || found;
    decide(first);
    state.overlay = first.overlay ? `data:image/jpeg;base64,${first.overlay}` : "";
  } catch {
    decide({ decision: "NOK", reason: "no answer from the service" });
  }
  state.busy = false;
  draw();
  refresh();
}

async function camera() {
  if (state.stream) {
    for (const track of state.stream.getTracks()) track.stop();
    state.stream = null;
  } else {
    try {
      state.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      state.plain = state.overlay = "";
      by("video").srcObject = state.stream;
      await by("video").play();
    } catch {
      state.stream = null;
      decide({ decision: "NOK", reason: "no camera, or not allowed; it needs https or localhost" });
    }
  }
  by("shoot").hidden = !state.stream;
  draw();
}

function shoot() {
  if (!state.stream) return;
  if (!by("shown").hidden) {  // back to the moving picture first
    state.plain = state.overlay = "";
    draw();
    return;
  }
  const video = by("video");
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => blob && inspect(blob), "image/png");
}

async function feedback(truth) {
  if (!state.id) return;
  const query = new URLSearchParams({ id: state.id, truth });
  try {
    const answer = await ask(`feedback?${query}`, { method: "POST" });
    const found = await answer.json();
    by("thanks").textContent = found.status || found.reason;
  } catch {
    by("thanks").textContent = "no answer from the service";
  }
}

function plot(drift) {
  const svg = by("plot");
  svg.replaceChildren();
  by("drift").textContent = !drift ? "needs a calibration card"
    : drift.alarm_at ? `alarm after ${drift.alarm_at} images` : `none in ${drift.images} images`;
  by("drift").className = drift && drift.alarm_at ? "NOK" : "quiet";
  if (!drift || !drift.series.length) return;
  const make = (name, values, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(values)) node.setAttribute(key, value);
    if (text) node.textContent = text;
    svg.append(node);
  };
  const last = Math.max(1, drift.series.at(-1)[0]);
  const values = drift.series.map((one) => one[1]);
  const low = Math.min(-1, ...values);
  const high = Math.max(2.5, ...values);
  const x = (n) => 34 + 360 * n / last;
  const y = (v) => 96 - 88 * (v - low) / (high - low);
  make("line", { x1: 34, x2: 394, y1: y(2), y2: y(2) });
  make("text", { x: 2, y: y(2) + 3 }, "alarm");
  make("text", { x: 2, y: y(0) + 3 }, "0");
  make("text", { x: 300, y: 107 }, `${last} images`);
  make("path", { d: drift.series.map((one, i) => `${i ? "L" : "M"}${x(one[0])} ${y(one[1])}`).join("") });
}

const pictures = new Map();

async function picture(image, id) {
  if (!pictures.has(id)) {
    const answer = await ask(`live/${id}.jpg`);
    if (!answer.ok) return;
    pictures.set(id, URL.createObjectURL(await answer.blob()));
  }
  image.src = pictures.get(id);
}

function recent(events) {
  const ids = events.map((event) => event.id);
  for (const [id, address] of pictures) {
    if (!ids.includes(id)) {
      URL.revokeObjectURL(address);
      pictures.delete(id);
    }
  }
  const box = by("recent");
  if ([...box.children].map((one) => one.dataset.id).join() === ids.join()) return;
  box.replaceChildren(...events.map((event) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.id = event.id;
    button.title = `${event.image} ${event.reason}`;
    const image = document.createElement("img");
    image.alt = "";
    const decision = document.createElement("small");
    decision.textContent = `${event.decision} ${figure(event.score, 3)}`;
    decision.className = event.decision;
    const name = document.createElement("small");
    name.textContent = event.image;
    button.append(image, decision, name);
    button.addEventListener("click", () => {
      by("inspect").hidden = by("stage").hidden = false;
      state.plain = pictures.get(event.id) || "";
      state.overlay = "";
      draw();
      decide(event);
    });
    if (event.score !== null) picture(image, event.id);
    return button;
  }));
}

async function refresh() {
  try {
    const answer = await ask("live");
    if (!answer.ok) throw new Error(String(answer.status));
    const live = await answer.json();
    by("model").textContent = live.model + (live.shadow ? ` · shadow ${live.shadow}` : "");
    by("state").textContent = live.alive ? "ready" : "not ready: NOK";
    by("state").className = live.alive ? "pill up" : "pill down";
    by("rate").textContent = figure(live.per_minute, 3);
    by("nok").textContent = live.shares.NOK === null ? "–" : `${figure(100 * live.shares.NOK, 3)} %`;
    by("median").textContent = figure(live.latency_ms.p50, 3);
    by("slow").textContent = figure(live.latency_ms.p99, 3);
    by("overruled").textContent = live.feedback ? `${live.overruled} of ${live.feedback}` : "–";
    by("answers").textContent = live.answers.toLocaleString("en");
    const down = Object.entries(live.sinks_down).map(([name, why]) => `${name}: ${why}`);
    by("problem").textContent = [live.problem, ...down].filter(Boolean).join("; ");
    by("problem").hidden = !by("problem").textContent;
    plot(live.drift);
    recent(live.recent);
  } catch (error) {
    by("state").textContent = error.message === "401" ? "token needed" : "no connection";
    by("state").className = "pill down";
  }
}

by("file").addEventListener("change", (event) => {
  if (event.target.files[0]) inspect(event.target.files[0]);
  event.target.value = "";
});
by("camera").addEventListener("click", camera);
by("shoot").addEventListener("click", shoot);
by("toggle").addEventListener("click", () => {
  state.showing = !state.showing;
  draw();
});
by("good").addEventListener("click", () => feedback("ok"));
by("defect").addEventListener("click", () => feedback("nok"));
by("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", by("token").value);
  by("token").value = "";
  refresh();
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  by("stage").classList.add("over");
});
document.addEventListener("dragleave", () => by("stage").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  by("stage").classList.remove("over");
  if (event.dataTransfer.files[0]) inspect(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files || [])][0];
  if (file) inspect(file);
});
document.addEventListener("keydown", (event) => {
  if (event.target.id === "token" || event.ctrlKey || event.metaKey || event.altKey) return;
  const onButton = ["BUTTON", "INPUT"].includes(event.target.tagName);
  const actions = {
    o: () => by("file").click(), c: camera, v: () => by("toggle").click(),
    g: () => feedback("ok"), d: () => feedback("nok"), " ": onButton ? null : shoot,
  };
  const action = actions[event.key.toLowerCase()];
  if (!action || by("tools").hidden) return;
  event.preventDefault();
  action();
});

const health = await fetch("health").then((answer) => answer.json()).catch(() => ({}));
if (health.predict === false) {
  by("inspect").hidden = true;
  by("tools").hidden = by("stage").hidden = true;
  document.querySelector("main").classList.add("watching");
}
draw();
refresh();
setInterval(() => document.hidden || refresh(), 2000);
