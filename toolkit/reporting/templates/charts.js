// Plots are drawn when they come near the window, and again when the theme changes.

const charts = data("charts-data");
const drawn = new Map();

function colour(name) {
  return getComputedStyle(root).getPropertyValue(`--${name}`).trim();
}

function coloured(value) {
  if (typeof value === "string") return value.startsWith("$") ? colour(value.slice(1)) || value : value;
  if (Array.isArray(value)) return value.map(coloured);
  if (value === null || typeof value !== "object") return value;
  const out = {};
  // What was measured stays as it is: a method may be called "$ink".
  for (const [key, part] of Object.entries(value)) out[key] = key === "values" || key === "domain" ? part : coloured(part);
  return out;
}

function chartConfig() {
  const font = getComputedStyle(document.body).fontFamily;
  const text = { labelFont: font, titleFont: font, labelColor: colour("muted"), titleColor: colour("muted") };
  return {
    background: "transparent",
    font,
    axis: {
      ...text, labelFontSize: 11, titleFontSize: 12, titleFontWeight: 500, titlePadding: 8, labelFlush: false,
      gridColor: colour("grid"), domainColor: colour("line"), tickColor: colour("line"),
    },
    legend: {
      ...text, labelColor: colour("ink"), orient: "bottom", direction: "horizontal", columns: 4,
      labelFontSize: 12, symbolStrokeWidth: 2.5, symbolType: "stroke", labelLimit: 260, rowPadding: 4,
    },
    view: { stroke: null },
    range: { category: [0, 1, 2, 3, 4, 5, 6, 7].map((i) => colour(`series${i}`)) },
  };
}

async function draw(place) {
  const key = place.dataset.chart;
  if (drawn.get(place)) drawn.get(place).finalize();
  const made = await window.vegaEmbed(place, coloured(charts[key]), {
    mode: "vega-lite", renderer: "svg", actions: false, ast: true, config: chartConfig(),
  });
  drawn.set(place, made);
  place.dataset.drawn = root.dataset.theme;
}

const chartWatch = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    chartWatch.unobserve(target);
    draw(target);
  }
}, { rootMargin: "600px" });

for (const place of document.querySelectorAll("[data-chart]")) chartWatch.observe(place);
root.addEventListener("themechange", () => { for (const place of drawn.keys()) draw(place); });
