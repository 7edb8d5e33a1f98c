// Plots are drawn when they come near the window, and again when the theme changes.

const charts = data("charts-data");
const drawn = new Map();
const drawing = new Set();

function colour(name) {
  return getComputedStyle(root).getPropertyValue(`--${name}`).trim();
}

function withColours(value) {
  if (typeof value === "string") return value.startsWith("$") ? colour(value.slice(1)) || value : value;
  if (Array.isArray(value)) return value.map(withColours);
  if (value === null || typeof value !== "object") return value;
  const out = {};
  // Data stay as they are: a method may be called "$ink".
  for (const [key, part] of Object.entries(value)) out[key] = key === "values" || key === "domain" ? part : withColours(part);
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

// One drawing at a time per place; if the theme changes meanwhile, the plot is drawn again.
async function draw(place) {
  if (drawing.has(place)) return;
  drawing.add(place);
  try {
    while (place.dataset.drawn !== root.dataset.theme) {
      const theme = root.dataset.theme;
      if (drawn.has(place)) drawn.get(place).finalize();
      drawn.set(place, await window.vegaEmbed(place, withColours(charts[place.dataset.chart]), {
        mode: "vega-lite", renderer: "svg", actions: false, ast: true, config: chartConfig(),
      }));
      place.dataset.drawn = theme;
    }
  } finally {
    drawing.delete(place);
  }
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
