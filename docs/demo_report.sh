#!/usr/bin/env bash
# The picture of the report in README.md: docs/demo_report.png from results/demo/report.html.
#
#   docs/demo_report.sh                          the picture of the README
#   docs/demo_report.sh PAGE.html PICTURE.png    of another page
#   docs/demo_report.sh --looks PAGE.html FOLDER screen, phone, dark and paper of a page, to be looked at
#
# Needs chromium (CHROMIUM=… names another), and for --looks pdftoppm. Run by hand; no test runs it.
set -euo pipefail
root=$(realpath "$(dirname "$0")/..")
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT

WIDTH=944      # the README's column
HEIGHT=2120    # down to the second row of charts
SCREEN=1200 PHONE=390 TALL=6000

browse() {
    "${CHROMIUM:-chromium}" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$profile" "$@" \
        >"$profile/log" 2>&1 || { cat "$profile/log" >&2; exit 1; }
}

# picture PAGE PNG WIDTH HEIGHT [browser flags]
picture() {
    local page png
    page=$(realpath -e "$1")
    png=$(realpath -m "$2")
    browse --window-size="$3,$4" --screenshot="$png" "${@:5}" "file://$page"
    echo "$png"
}

# A phone's window is narrower than a headless window may be: the page is shown in a frame of that width.
phone() {
    local page
    page=$(realpath -e "$1")
    cat >"$profile/phone.html" <<HTML
<!DOCTYPE html>
<style>body { margin: 0 } iframe { border: 0; width: ${PHONE}px; height: ${TALL}px }</style>
<iframe src="file://$page"></iframe>
HTML
    picture "$profile/phone.html" "$2" 520 "$TALL"
}

if [ "${1:-}" = --looks ]; then
    page=$(realpath -e "$2")
    mkdir -p "$3"
    folder=$(realpath "$3")
    picture "$page" "$folder/screen.png" "$SCREEN" "$TALL"
    phone "$page" "$folder/phone.png"
    picture "$page" "$folder/dark.png" "$SCREEN" "$TALL" --blink-settings=preferredColorScheme=0
    browse --no-pdf-header-footer --print-to-pdf="$folder/paper.pdf" "file://$page"
    pdftoppm -r 60 -png "$folder/paper.pdf" "$folder/paper"
    ls "$folder"/paper*
else
    picture "${1:-$root/results/demo/report.html}" "${2:-$root/docs/demo_report.png}" "$WIDTH" "$HEIGHT"
fi
