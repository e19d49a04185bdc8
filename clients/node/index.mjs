// The same module object for `import` and `require`: a process has one watcher for each call of secrets(), whoever calls.
import client from './index.cjs'

export const { secrets, Secrets, SecretsError } = client
export default client
