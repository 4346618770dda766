//! The link between a pod's agent and the gateway. Both ends share what is here: the messages, the frames, and the
//! settings an agent starts with. No policy, no SSH, no Kubernetes.

pub mod settings;
