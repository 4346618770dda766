// The one script of our own: counts the time left down, keeps the list of sessions current, starts the player.
// Without it the page works all the same: the server has written the time left, and the list loads itself again.
"use strict";

(() => {
  const EVERY = 5000; // milliseconds between two looks at the list

  // The same words as the server's.
  const words = (seconds) => {
    const two = (number) => String(number).padStart(2, "0");
    const [hours, minutes, rest] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
    if (hours > 0) return `${hours} h ${two(minutes)} min ${two(rest)} s`;
    return minutes > 0 ? `${minutes} min ${two(rest)} s` : `${rest} s`;
  };

  // Ends as moments of this browser's clock. Its difference to the server's does not matter: only steps are taken from it.
  const ends = new Map();

  const learn = (timer, remaining) => ends.set(timer, Date.now() + Number(remaining) * 1000);

  const count = () => {
    for (const [timer, end] of ends) {
      const seconds = Math.max(0, Math.ceil((end - Date.now()) / 1000));
      timer.textContent = words(seconds);
      timer.classList.toggle("last", seconds < 60);
    }
  };

  const timers = (list) => [...list.querySelectorAll("[data-remaining]")];

  // The rows stay as they are, with the focus and the selection in them, while only time has passed.
  const take = (fresh) => {
    const list = document.getElementById("sessions");
    if (list.dataset.version === fresh.dataset.version) {
      const old = timers(list);
      timers(fresh).forEach((timer, place) => learn(old[place], timer.dataset.remaining));
    } else {
      const focused = list.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
      list.replaceWith(document.adoptNode(fresh));
      ends.clear();
      timers(fresh).forEach((timer) => learn(timer, timer.dataset.remaining));
      if (focused) [...fresh.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused)?.focus();
    }
    count();
  };

  // A request for a document, not for text: the browser parses it without running anything, and no markup is made from a string.
  const look = () => {
    if (document.hidden) return;
    const request = new XMLHttpRequest();
    const news = document.getElementById("news");
    const lost = () => {
      news.textContent = "The list is not current: the server does not answer. Load the page again to sign in anew.";
    };
    request.open("GET", "/sessions");
    request.responseType = "document";
    request.timeout = EVERY - 500;
    request.onload = () => {
      const fresh = request.status === 200 ? request.response?.getElementById("sessions") : null;
      if (!fresh) return lost();
      news.textContent = "";
      take(fresh);
    };
    request.onerror = request.ontimeout = lost;
    request.send();
  };

  const list = document.getElementById("sessions");
  if (list) {
    timers(list).forEach((timer) => learn(timer, timer.dataset.remaining));
    setInterval(count, 1000);
    setInterval(look, EVERY);
    document.addEventListener("visibilitychange", look);
  }

  const player = document.getElementById("player");
  if (player) {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    AsciinemaPlayer.create(player.dataset.cast, player, {
      fit: "width",
      idleTimeLimit: 2,
      preload: true,
      controls: true,
      cursorMode: still ? "steady" : "blinking",
    });
  }
})();
