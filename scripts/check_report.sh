#!/usr/bin/env bash
# Opens a report in headless Chromium: it must render without a word on the console, and its tables must sort.
#   scripts/check_report.sh REPORT.html [FOLDER]     screenshots go to FOLDER
# Without Chromium it says so and succeeds.
set -euo pipefail
report=$1
folder=${2:-}
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
if [ -z "$browser" ]; then
  echo "SKIPPED: no chromium on the path"
  exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

run() { timeout 120 "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$work/$profile" "$@"; }

profile=probe
# The page as it is, with a script after it that clicks and writes down what it sees.
cat >"$work/probe.js" <<'JS'
const found = [];
const check = (what, holds) => found.push(`${holds ? "ok" : "WRONG"} ${what}`);
for (const table of document.querySelectorAll("table")) {
  const column = [...table.tHead.rows[0].cells].findIndex((head) => head.textContent.startsWith("mean"));
  const head = table.tHead.rows[0].cells[column];
  const values = () => [...table.tBodies[0].rows].map((row) => row.cells[column].dataset.value).filter((value) => value !== "").map(Number);
  const sorted = (compare) => values().every((value, at, all) => at === 0 || compare(all[at - 1], value));
  head.querySelector("button").click();
  check("a click sorts upwards", head.getAttribute("aria-sort") === "ascending" && sorted((a, b) => a <= b));
  head.querySelector("button").click();
  check("another one downwards", head.getAttribute("aria-sort") === "descending" && sorted((a, b) => a >= b));
}
for (const details of document.querySelectorAll("details")) details.open = true;
check("every figure has a size", [...document.querySelectorAll(".chart svg")].every((svg) => svg.getBoundingClientRect().height > 100));
const ground = () => getComputedStyle(document.body).backgroundColor;
const seen = new Set();
for (let click = 0; click < 3; click += 1) { document.getElementById("theme").click(); seen.add(ground()); }
check("the button changes the colours", seen.size === 2);
check("the page is not wider than the screen", document.documentElement.scrollWidth <= innerWidth);
document.body.textContent = found.join("\n");
JS
# The page's policy allows inline scripts only, so the probe is put inside.
{ sed '/<\/body><\/html>$/s|</body></html>$||' "$report"; echo "<script>"; cat "$work/probe.js"; echo "</script></body></html>"; } >"$work/probe.html"
for size in 1280,900 500,900; do
  run --window-size="$size" --enable-logging=stderr --virtual-time-budget=5000 --dump-dom "file://$work/probe.html" >"$work/dom" 2>"$work/log"
  found=$(grep -oE '(ok|WRONG) [a-z ]+' "$work/dom" || true)
  if ! grep -q '^ok the page is not wider' <<<"$found" || grep -q '^WRONG' <<<"$found"; then
    echo "at $size:"; echo "${found:-the page did nothing}"; exit 1
  fi
  if grep 'CONSOLE' "$work/log"; then echo "at $size: the page wrote to the console"; exit 1; fi
done
echo "$found"

if [ -n "$folder" ]; then
  mkdir -p "$folder"
  profile=pictures # The probe left its theme in the other one.
  for theme in light dark; do
    sed "s|?? \"system\"|?? \"$theme\"|" "$report" >"$work/$theme.html"
    run --window-size=1280,5200 --screenshot="$folder/$theme.png" "file://$work/$theme.html" 2>/dev/null
  done
  # No window is narrower than 500 pixels, a frame is.
  echo '<body style="margin:0"><iframe src="light.html" style="width:390px;height:4000px;border:0"></iframe>' >"$work/phone.html"
  run --window-size=500,4000 --screenshot="$folder/phone.png" "file://$work/phone.html" 2>/dev/null
fi
