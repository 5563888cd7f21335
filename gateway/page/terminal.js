// One terminal session in a browser. The secret comes in the address's fragment, which browsers send to nobody; it is
// taken out of the address at once and kept in this page's memory only: no storage, no cookie.
"use strict";

(() => {
  const session = location.pathname.split("/").pop();
  const state = document.getElementById("state");
  const ask = document.getElementById("ask");
  const RETRY_MS = 1000;
  let token = new URLSearchParams(location.hash.slice(1)).get("token");
  let socket = null;
  let over = false;
  history.replaceState(null, "", location.pathname);

  const terminal = new Terminal({ cursorBlink: true, scrollback: 5000 });
  const fit = new FitAddon.FitAddon();
  terminal.loadAddon(fit);
  terminal.open(document.getElementById("terminal"));
  const encoder = new TextEncoder();

  const send = (frame) => {
    if (socket && socket.readyState === WebSocket.OPEN) {
      socket.send(frame);
    }
  };
  const control = (frame) => send(JSON.stringify(frame));
  const say = (text) => { state.textContent = text; };

  terminal.onData((text) => send(encoder.encode(text)));
  terminal.onBinary((text) => send(Uint8Array.from(text, (character) => character.charCodeAt(0) & 255)));
  terminal.onResize(({ cols, rows }) => control({ type: "resize", cols, rows }));
  addEventListener("resize", () => fit.fit());

  function attach() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const query = new URLSearchParams({ session_id: session, token });
    socket = new WebSocket(`${scheme}//${location.host}/ws/terminal/attach?${query}`, "terminal");
    socket.binaryType = "arraybuffer";
    let ready = false;
    say("attaching …");
    socket.onmessage = ({ data }) => {
      if (typeof data !== "string") {
        terminal.write(new Uint8Array(data));
        return;
      }
      const frame = JSON.parse(data);
      if (frame.type === "ready") {
        ready = true;
        say("");
        fit.fit();
        control({ type: "resize", cols: terminal.cols, rows: terminal.rows });
        terminal.focus();
      } else if (frame.type === "exit") {
        over = true;
        say(`ended: exit code ${frame.code} (${frame.reason})`);
      } else if (frame.type === "error") {
        say(frame.message);
      }
    };
    socket.onclose = () => {
      if (over) {
        return;
      }
      if (ready) {
        say("the connection was lost; attaching again …");
        setTimeout(attach, RETRY_MS);
      } else {
        say("no such session, or not with this ticket");
        ask.hidden = false;
      }
    };
  }

  ask.addEventListener("submit", (event) => {
    event.preventDefault();
    const field = document.getElementById("token");
    token = field.value.trim();
    field.value = "";
    ask.hidden = true;
    attach();
  });
  if (token) {
    attach();
  } else {
    ask.hidden = false;
  }
})();
