"""The page `/`, in plain HTML, CSS and JavaScript: no build step, nothing from another host.

1. `index.html`, `page.css`, `icon.svg`: what is there before the first answer.
2. `main.js`: wires the parts. `state.js`: what is shown, kept in the address of the page.
3. `client.js`: requests, with the API key of `key.js`; `poller.js`: when they are repeated.
4. `table.js`: the rows; `trends.js`: the days of each visible row; `detail.js`: the days of one
   group in figures, as a drawing of `chart.js` and as a table; `workers.js`: the workers.
5. `facts.js`: source, window, time zone and lag. `format.js`: numbers and dates. `dom.js`: makes
   elements.

`api.page_routes` serves the files.
"""
