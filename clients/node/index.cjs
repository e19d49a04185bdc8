'use strict'
// Reads the secrets of this VPS from vps-secrets-agent, at start and whenever one changes. No dependency.
// What the agent answers: docs/socket-api.md. Values are shown by no console.log, JSON.stringify or error of this module.
const { EventEmitter } = require('node:events')
const http = require('node:http')
const { setTimeout: sleep } = require('node:timers/promises')
const { inspect } = require('node:util')

const SOCKET = '/run/vps-secrets/app.sock'
const WATCH_S = 60 // one question "has anything changed?"
const ANSWER_MS = 30_000 // every other answer; and how long after WATCH_S a watch may be late
const PAUSE_MS = 250 // before the second attempt; doubles
const LONGEST_PAUSE_MS = 30_000

/** Why the agent gave no answer, or another than asked for. Never a value. */
class SecretsError extends Error {
  constructor (message, { code, status, type, retryAfter } = {}) {
    super(message)
    Object.assign(this, { name: 'SecretsError', code, status, type, retryAfter })
  }
}

/** What one answer has: status, headers, and the body as a Buffer. */
const ask = (socketPath, agent, path, { unref = false, limit = ANSWER_MS, signal } = {}) => new Promise((resolve, reject) => {
  const failed = (error) => reject(new SecretsError(`${path}: ${error.code ?? error.name}: ${explained(error, socketPath)}`, error))
  const request = http.get({ socketPath, agent, path, signal, timeout: limit }, async (response) => {
    try {
      const body = Buffer.concat(await response.toArray())
      const { statusCode: status, headers } = response
      if (status < 300) return resolve({ status, headers, body })
      reject(new SecretsError(`${path}: ${status} ${titleOf(body)}`, {
        status, type: problemOf(body).type, retryAfter: Number(headers['retry-after']) || undefined
      }))
    } catch (error) { failed(error) }
  })
  request.on('socket', (socket) => unref ? socket.unref() : socket.ref()) // a watcher keeps no program alive
  request.on('timeout', () => request.destroy(Object.assign(new Error('no answer in time'), { code: 'ETIMEDOUT' })))
  request.on('error', failed)
})

const explained = (error, socketPath) => ({
  ENOENT: `${socketPath} is not there: is vps-secrets-agent running?`,
  ECONNREFUSED: 'nobody listens: is vps-secrets-agent running?',
  EACCES: `this process may not use ${socketPath}: is its user in the group that may?`
}[error.code] ?? 'the connection ended')

const problemOf = (body) => { try { return JSON.parse(body) ?? {} } catch { return {} } }
const titleOf = (body) => { const { title = '', detail = '' } = problemOf(body); return `${title} ${detail}`.trim() }

/** Text is a string; what is not UTF-8 is a Buffer. As in a bundle. */
const valueOf = (body) => {
  try { return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(body) } catch { return body }
}

/** Whether asking again can help without anybody doing something first. */
const passes = ({ status, code }) => status === undefined ? code !== 'EACCES' : status >= 429 || status === 408

/** Full jitter: a fleet that lost its agents at one moment does not come back at one. */
const pauseBefore = (attempt, { retryAfter }) =>
  retryAfter ? retryAfter * 1000 * (1 + Math.random() / 4) : Math.random() * Math.min(LONGEST_PAUSE_MS, PAUSE_MS * 2 ** attempt)

/** The content of a bundle. The error of JSON.parse quotes what it read, which is values here: another one says that it failed. */
const bundleOf = (body) => {
  let bundle
  try { bundle = JSON.parse(body) } catch {}
  if (!Number.isInteger(bundle?.generation)) throw new SecretsError('/v1/bundle: the answer is no bundle', { code: 'EANSWER' })
  return { generation: bundle.generation, values: new Map(Object.entries(bundle.secrets).map(([name, value]) =>
    [name, typeof value === 'string' ? value : Buffer.from(value.base64, 'base64')])) }
}

/** The secrets of one moment, kept up to date. Events: change (names, this), problem (SecretsError), well (). */
class Secrets extends EventEmitter {
  #socketPath; #agent = new http.Agent({ keepAlive: true, maxSockets: 2 }); #values = new Map(); #generation = 0; #stop = new AbortController()

  constructor (socketPath) { super(); this.#socketPath = socketPath }

  /** A whole number; another one whenever a value differs. */
  get generation () { return this.#generation }

  /** Names of the secrets that this process may read. */
  get names () { return [...this.#values.keys()].sort() }

  has (name) { return this.#values.has(name) }

  /** The value: a string, or a Buffer where it is not UTF-8. Throws where there is none. */
  get (name) {
    if (!this.#values.has(name)) throw new SecretsError(`no secret ${name}: there are ${this.names.join(', ') || 'none'}`, { code: 'ENOSECRET' })
    return this.#values.get(name)
  }

  /** All values by name, for what wants to read an object such as process.env. */
  all () { return Object.fromEntries(this.#values) }

  /** The value before the last rotation, or undefined where the agent has none any more. */
  async previous (name) {
    try {
      return valueOf((await this.#ask(`/v1/secrets/${encodeURIComponent(name)}?version=previous`)).body)
    } catch (error) {
      if (error.status === 404) return undefined
      throw error
    }
  }

  /** Calls back with the names that changed, after each change. Returns a function that ends it. */
  onChange (listener) { this.on('change', listener); return () => this.off('change', listener) }

  /** Ends the watch; the values stay. */
  close () { this.#stop.abort(); this.#agent.destroy() }

  // only this module calls it: reads, and reads again until there is something or the time is up
  async _first (milliseconds, wanted) {
    const end = Date.now() + milliseconds
    for (let attempt = 0; ; attempt++) {
      try {
        await this.#read()
        const missing = wanted.filter((name) => !this.has(name))
        if (missing.length) throw new SecretsError(`no value yet: ${missing.join(', ')} (vps-secrets explain says who may read what)`, { code: 'ENOSECRET' })
        this.#watch()
        return this
      } catch (error) {
        const pause = pauseBefore(attempt, error)
        if (!passes(error) || Date.now() + pause > end) { this.close(); throw error }
        await sleep(pause)
      }
    }
  }

  #ask (path, options) { return ask(this.#socketPath, this.#agent, path, { signal: this.#stop.signal, ...options }) }

  async #read (options) {
    const { generation, values } = bundleOf((await this.#ask('/v1/bundle', options)).body)
    const changed = [...new Set([...this.#values.keys(), ...values.keys()])].filter((name) =>
      !this.#values.has(name) || !values.has(name) || Buffer.compare(Buffer.from(values.get(name)), Buffer.from(this.#values.get(name))))
    this.#values = values
    this.#generation = generation
    return changed.sort()
  }

  async #watch () {
    for (let attempt = 0; !this.#stop.signal.aborted;) {
      try {
        const limit = WATCH_S * 1000 + ANSWER_MS
        const { status } = await this.#ask(`/v1/watch?after=${this.#generation}&timeout=${WATCH_S}`, { unref: true, limit })
        const changed = status === 200 ? await this.#read({ unref: true }) : []
        if (attempt) this.emit('well')
        attempt = 0
        if (changed.length) this.emit('change', changed, this)
      } catch (error) {
        if (this.#stop.signal.aborted) return
        // what a listener throws is not ours: it ends the program, as an error in any other callback does
        if (!(error instanceof SecretsError)) return process.nextTick(() => { throw error })
        this.emit('problem', error)
        await sleep(pauseBefore(attempt++, error), undefined, { ref: false, signal: this.#stop.signal }).catch(() => {})
      }
    }
  }

  toJSON () { return { generation: this.#generation, names: this.names } }
  [inspect.custom] () { return `Secrets(generation ${this.#generation}: ${this.names.join(', ')})` }
}

/** Reads all secrets that this process may read. Waits `timeout` ms at most for the agent, and until all `names` have a value. */
const secrets = async ({ socket = process.env.VPS_SECRETS_SOCKET ?? SOCKET, timeout = 60_000, names = [] } = {}) =>
  new Secrets(socket)._first(timeout, names)

module.exports = { secrets, Secrets, SecretsError }
