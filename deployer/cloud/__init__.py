"""What a deployment does in the cloud for a VPS: accounts, container, secrets, rotation, revocation.

For the demo and the tests, and the model for the deployment service: docs/provisioning.md gives the same
steps as HTTP calls. Not a part of the agent, which can do none of this.
"""
