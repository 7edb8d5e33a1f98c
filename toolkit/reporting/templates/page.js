// Helpers, the light and dark switch, and tables that sort.

const root = document.documentElement;

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function data(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

function remembered(key, value) {
  // Browsers may deny storage to a page that is opened from disk.
  try {
    if (value !== undefined) localStorage.setItem(key, value);
    return localStorage.getItem(key);
  } catch (error) {
    return null;
  }
}

const themeButton = document.getElementById("theme");
const prefersDark = matchMedia("(prefers-color-scheme: dark)");

function setTheme(theme) {
  const other = theme === "dark" ? "light" : "dark";
  root.dataset.theme = theme;
  themeButton.textContent = other === "dark" ? "Dark" : "Light";
  themeButton.title = `Switch to ${other} colours`;
  root.dispatchEvent(new Event("themechange"));
}

function showTheme() {
  setTheme(remembered("toolkit-report-theme") || (prefersDark.matches ? "dark" : "light"));
}

themeButton.addEventListener("click", () => {
  const next = root.dataset.theme === "dark" ? "light" : "dark";
  remembered("toolkit-report-theme", next);
  setTheme(next);
});
prefersDark.addEventListener("change", showTheme);
showTheme();

function sortTable(table, column, button) {
  const header = button.closest("th");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const key = (row) => row.cells[column].dataset.sort;
  const numeric = rows.every((row) => key(row) === undefined || !Number.isNaN(Number(key(row))));
  const before = header.getAttribute("aria-sort");
  // Numbers start with the best, names with the first.
  const [first, second] = numeric && !("lower" in header.dataset)
    ? ["descending", "ascending"] : ["ascending", "descending"];
  const order = before === first ? second : first;
  const ranked = table.classList.contains("ranked");
  const sign = order === "ascending" ? 1 : -1;
  rows.sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    return sign * (numeric ? Number(x) - Number(y) : x.localeCompare(y));
  });
  for (const other of header.parentElement.cells) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", order);
  body.append(...rows);
  if (ranked) renumber(table, header, rows, key, numeric);
}

// Ranks and the top group belong to one column. Another column has its own ranks; text has none.
function renumber(table, header, rows, key, numeric) {
  const original = header.cellIndex === 0 || "ranking" in header.dataset;
  const sign = "lower" in header.dataset ? 1 : -1;
  const better = (row) => rows.filter((other) => sign * (Number(key(other)) - Number(key(row))) < 0).length;
  for (const row of rows) {
    const cell = row.cells[0];
    const known = numeric && key(row) !== undefined;
    cell.textContent = original ? cell.dataset.rank : known ? better(row) + 1 : "–";
  }
  table.classList.toggle("other-order", !original);
}

for (const table of document.querySelectorAll("table[data-sortable]")) {
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const button = cell.querySelector("button");
    button.addEventListener("click", () => sortTable(table, column, button));
  });
}
