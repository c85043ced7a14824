/** What `connect` calls. */
export interface Handlers<M> {
  readonly onMessage: (message: M) => void;
  /** Messages are lost: load the page's data again. */
  readonly onReset: () => void;
  /** The session is over. No message follows. */
  readonly onEnded: () => void;
  /** A message did not fit its type. Without it, the error is thrown. */
  readonly onError?: (error: unknown) => void;
}
interface StreamEvent {
  readonly kind: string;
  readonly id: string;
  readonly data: string;
}
interface Locks {
  request(
    name: string,
    options: { readonly signal: AbortSignal },
    run: () => Promise<void>,
  ): Promise<void>;
}
function connectAs<M>(
  url: string,
  tags: readonly string[],
  decode: (value: unknown) => M,
  handlers: Handlers<M>,
): () => void {
  const name = `greentic-session:${url}`;
  const stop = new AbortController();
  const channel = typeof BroadcastChannel === "undefined" ? undefined : new BroadcastChannel(name);
  const recent: string[] = [];
  let position = "";
  let ended = false;
  let failures = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let source: EventSource | undefined;
  let release: () => void = () => undefined;

  function close(): void {
    ended = true;
    clearTimeout(timer);
    source?.close();
    release();
    stop.abort();
    channel?.close();
  }
  function receive(event: StreamEvent): void {
    if (ended) return;
    if (event.kind === "join") {
      if (source !== undefined) channel?.postMessage({ kind: "at", id: position, data: "" });
      return;
    }
    if (event.kind === "at") {
      if (position === "") position = event.id;
      return;
    }
    if (event.kind === "from") {
      // The tab that took the stream over began elsewhere, so messages may be missing here.
      if (position !== "" && position !== event.id) {
        position = event.id;
        handlers.onReset();
      }
      return;
    }
    if (event.id !== "") position = event.id;
    if (event.kind === "hello") {
      failures = 0;
      return;
    }
    if (event.kind === "ended") {
      close();
      handlers.onEnded();
      return;
    }
    if (event.kind === "reset") {
      handlers.onReset();
      return;
    }
    // A tab that takes the stream over may send an event that this tab has already.
    if (recent.includes(event.id)) return;
    recent.push(event.id);
    if (recent.length > 256) recent.shift();
    let message: M;
    try {
      message = decode(JSON.parse(event.data));
    } catch (error) {
      if (handlers.onError === undefined) throw error;
      handlers.onError(error);
      return;
    }
    handlers.onMessage(message);
  }
  function share(sent: StreamEvent): void {
    channel?.postMessage(sent);
    receive(sent);
  }
  function address(): string {
    const mark = url.includes("?") ? "&" : "?";
    return position === "" ? url : `${url}${mark}last_event_id=${encodeURIComponent(position)}`;
  }
  function listen(): void {
    const current = new EventSource(address(), { withCredentials: true });
    source = current;
    for (const kind of [...tags, "hello", "reset", "ended"]) {
      current.addEventListener(kind, (event: Event) => {
        const { lastEventId, data } = event as MessageEvent<string>;
        share({ kind, id: lastEventId, data });
      });
    }
    current.addEventListener("error", () => {
      // The browser reconnects by itself unless the server refused the stream.
      if (!ended && current.readyState === 2) void recover();
    });
  }
  /** Ask for the status, which an EventSource hides: the session is over, or the server is down. */
  async function recover(): Promise<void> {
    const probe = new AbortController();
    let status = 0;
    try {
      const headers = { Accept: "text/event-stream" };
      const found = await fetch(address(), { headers, credentials: "include", signal: probe.signal });
      status = found.status;
    } catch {
      status = 0;
    }
    probe.abort();
    if (ended) return;
    if ([204, 401, 403, 404, 410].includes(status)) {
      share({ kind: "ended", id: "", data: "" });
      return;
    }
    const longest = Math.min(30_000, 500 * 2 ** failures);
    failures += 1;
    timer = setTimeout(listen, longest * (0.5 + Math.random() / 2));
  }
  function open(): Promise<void> {
    if (ended) return Promise.resolve();
    channel?.postMessage({ kind: "from", id: position, data: "" });
    listen();
    return new Promise((resolve) => {
      release = resolve;
    });
  }
  channel?.addEventListener("message", (event: MessageEvent<StreamEvent>) => receive(event.data));
  channel?.postMessage({ kind: "join", id: "", data: "" });
  const { navigator } = globalThis as unknown as { readonly navigator?: { readonly locks?: Locks } };
  if (channel === undefined || navigator?.locks === undefined) void open();
  else navigator.locks.request(name, { signal: stop.signal }, open).catch(() => undefined);
  return close;
}
