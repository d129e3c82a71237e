// Lets countdowns tick. Every page is complete without it: what it shows, the server has written already.
"use strict";
(() => {
  const shown = document.querySelectorAll("[data-until]");
  const ahead = Date.parse(document.body.dataset.now) - Date.now(); // this machine's clock may be wrong
  const sizes = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

  const words = (seconds) => {
    const place = sizes.findIndex(([, size]) => seconds >= size);
    const [unit, size] = sizes[place];
    const next = sizes[place + 1];
    const rest = next ? Math.floor((seconds % size) / next[1]) : 0;
    return `in ${Math.floor(seconds / size)} ${unit}${rest ? ` ${rest} ${next[0]}` : ""}`;
  };

  const tick = () => {
    for (const element of shown) {
      const seconds = Math.floor((Date.parse(element.dataset.until) - Date.now() - ahead) / 1000);
      element.textContent = seconds >= 1 ? words(seconds) : "over: reload the page";
    }
  };

  if (shown.length) setInterval(tick, 1000);
})();
