// What HTML and htmx cannot do by themselves. Every page can be read and every form sent without this.
'use strict';
(() => {
  const all = (selector, root = document) => root.querySelectorAll(selector);
  const mostLines = 5000; // in the page while a log runs by: a phone shows as many without effort

  // Copying.
  const showCopy = (root) => { if (navigator.clipboard) all('[data-copy]', root).forEach((b) => { b.hidden = false; }); };
  document.addEventListener('click', async (event) => {
    const button = event.target.closest('[data-copy]');
    if (!button) return;
    const text = document.querySelector(button.dataset.copy)?.textContent ?? '';
    await navigator.clipboard.writeText(text);
    const was = button.innerHTML;
    button.textContent = 'Copied';
    setTimeout(() => { button.innerHTML = was; }, 1500);
  });

  // Times that go on. The server says how long it was; from there on this browser's own clock counts.
  const seconds = (ms) => {
    const s = ms / 1000;
    if (s < 10) return `${s.toFixed(1)} s`;
    if (s < 60) return `${Math.floor(s)} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
    return `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min`;
  };
  const begun = new WeakMap();
  const count = () => all('[data-counting]').forEach((e) => {
    const from = Number(e.dataset.counting);
    let known = begun.get(e);
    if (!known || known.from !== from) begun.set(e, known = { from, at: performance.now() });
    e.textContent = seconds(from + performance.now() - known.at);
  });
  setInterval(count, 500);

  // The list, anew every few seconds while somebody looks at it.
  setInterval(() => {
    const list = document.querySelector('[data-refresh]');
    if (list && document.visibilityState === 'visible') list.dispatchEvent(new CustomEvent('refresh'));
  }, 3000);

  // Secrets never come back from the server: what was typed stays here while the page is made anew.
  let kept = [];
  document.addEventListener('htmx:before:swap', () => {
    kept = [...all('[data-keep]')].filter((e) => e.value).map((e) => [e.id, e.value]);
  });
  document.addEventListener('htmx:after:swap', (event) => {
    for (const [id, value] of kept) {
      const e = document.getElementById(id);
      if (e && !e.value) {
        e.value = value;
        e.closest('.field')?.querySelector('.retype')?.remove();
      }
    }
    if (kept.length) all('.notice.retype').forEach((e) => e.remove());
    kept = [];
    arrived(document);
  });

  // What a person should see first.
  const arrived = (root) => {
    showCopy(root);
    const first = root.querySelector('[data-focus]');
    if (first) {
      first.removeAttribute('data-focus');
      first.focus();
    }
    count();
  };

  // The log.
  const log = document.getElementById('log');
  const lines = document.getElementById('log-lines');
  const follow = document.getElementById('follow');
  const live = document.getElementById('live');
  const following = () => follow?.getAttribute('aria-pressed') === 'true';
  const toEnd = () => { log.scrollTop = log.scrollHeight; };
  const setFollow = (on) => {
    follow?.setAttribute('aria-pressed', String(on));
    if (on) toEnd();
  };
  const say = (text, lost) => {
    if (!live) return;
    live.hidden = false;
    live.classList.toggle('lost', lost);
    if (live.textContent !== text) live.textContent = text;
  };
  // The oldest lines go, whole entries of the log at a time, so that "Earlier output" brings exactly them back.
  const prune = () => {
    let excess = lines.childElementCount - mostLines;
    if (excess <= 0) return;
    const seq = (e) => e.dataset.seq;
    while (lines.firstElementChild && (excess > 0 || seq(lines.firstElementChild) === prune.last)) {
      prune.last = seq(lines.firstElementChild);
      lines.firstElementChild.remove();
      excess--;
    }
    const first = lines.firstElementChild && seq(lines.firstElementChild);
    if (!first) return;
    let earlier = document.getElementById('earlier');
    while (earlier?.nextElementSibling && earlier.nextElementSibling !== lines) earlier.nextElementSibling.remove();
    earlier?.remove();
    const path = location.pathname;
    const step = new URLSearchParams(location.search).get('step');
    const query = `before=${first}${step ? `&step=${encodeURIComponent(step)}` : ''}`;
    earlier = document.createElement('div');
    earlier.className = 'more';
    earlier.id = 'earlier';
    const a = document.createElement('a');
    a.className = 'button slim';
    a.href = `${path}?${query}#log-title`;
    a.setAttribute('hx-get', `${path}/log?${query}`);
    a.setAttribute('hx-target', '#earlier');
    a.setAttribute('hx-swap', 'outerHTML');
    a.textContent = 'Earlier output';
    earlier.append(a);
    log.prepend(earlier);
    htmx.process(earlier);
  };
  if (log) {
    if (follow) {
      follow.hidden = false;
      follow.addEventListener('click', () => setFollow(!following()));
      // Whoever scrolls up wants to read; whoever comes back to the end wants more.
      const atEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 40;
      for (const kind of ['wheel', 'touchmove', 'keyup', 'pointerup']) {
        log.addEventListener(kind, () => requestAnimationFrame(() => {
          if (following() !== atEnd()) follow.setAttribute('aria-pressed', String(atEnd()));
        }), { passive: true });
      }
    }
    const here = log.querySelector('.here');
    if (here) {
      log.scrollTop = here.offsetTop - log.offsetTop - log.clientHeight / 3;
    } else if (!new URLSearchParams(location.search).has('after')) {
      toEnd();
    }
    document.addEventListener('htmx:sse:after:connection', () => say('Live', false));
    document.addEventListener('htmx:sse:error', (event) => {
      if (event.detail?.status === 401) location.reload(); // to be asked to sign in
      say('Reconnecting…', true);
    });
    document.addEventListener('htmx:sse:before:connection', (event) => {
      if (event.detail?.connection?.attempt > 0) say('Reconnecting…', true);
    });
    document.addEventListener('htmx:sse:after:message', () => {
      document.getElementById('log-void')?.remove();
      // Whoever reads further up keeps what is there for longer, but not for ever.
      if (following() || lines.childElementCount > 4 * mostLines) prune();
      if (following()) toEnd();
      arrived(document);
    });
    document.addEventListener('gone', () => location.reload());
    document.addEventListener('done', () => {
      say('Ended', false);
      live?.classList.remove('live');
      const state = document.querySelector('#summary .state')?.textContent;
      if (state) document.title = document.title.replace(/^[^:]*/, state.trim());
      if (follow) follow.hidden = true;
    });
  }
  arrived(document);
})();
