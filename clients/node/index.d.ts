/// <reference types="node" />
import { EventEmitter } from 'node:events'

export interface Options {
  /** Path of app.sock; default: $VPS_SECRETS_SOCKET, else /run/vps-secrets/app.sock. */
  socket?: string
  /** How long to wait for an agent that is not ready, in milliseconds; default 60,000. */
  timeout?: number
  /** Names that must have a value before secrets() returns. */
  names?: readonly string[]
}

/** Why the agent gave no answer, or another than asked for. Never a value. */
export class SecretsError extends Error {
  /** ENOENT, EACCES, ECONNREFUSED, ETIMEDOUT …, ENOSECRET, EANSWER. */
  code?: string
  /** HTTP status of the agent's refusal. */
  status?: number
  /** For programs: urn:vps-secrets:problem:TYPE. */
  type?: string
  /** Seconds. */
  retryAfter?: number
}

/** The secrets that this process may read, kept up to date. Shown by console.log and JSON as names only. */
export class Secrets extends EventEmitter {
  private constructor ()
  readonly generation: number
  readonly names: readonly string[]
  has (name: string): boolean
  /** A string, or a Buffer where the value is not UTF-8. Throws SecretsError where there is none. */
  get (name: string): string | Buffer
  all (): Record<string, string | Buffer>
  /** The value before the last rotation, or undefined where the agent has none any more. */
  previous (name: string): Promise<string | Buffer | undefined>
  /** Calls back after each change; the result ends that. */
  onChange (listener: (names: string[], secrets: Secrets) => void): () => void
  on (event: 'change', listener: (names: string[], secrets: Secrets) => void): this
  on (event: 'problem', listener: (error: SecretsError) => void): this
  on (event: 'well', listener: () => void): this
  /** Ends the watch; the values stay. */
  close (): void
  toJSON (): { generation: number, names: string[] }
}

/** Reads the secrets at start, waits for an agent that is not ready, and watches for changes from then on. */
export function secrets (options?: Options): Promise<Secrets>
declare const client: { secrets: typeof secrets, Secrets: typeof Secrets, SecretsError: typeof SecretsError }
export default client
