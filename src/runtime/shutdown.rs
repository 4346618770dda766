//! The wish to stop, as every task sees it.

use tokio::sync::watch;

/// Resolves when the process is to stop. Clones see the same wish.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// Who may wish it.
#[derive(Debug)]
pub(super) struct Trigger(watch::Sender<bool>);

pub(super) fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    pub(super) fn request(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Resolves when the process is to stop, also if that was wished long ago.
    pub async fn requested(&self) {
        let mut receiver = self.0.clone();
        // An error means that the supervisor is gone, and then it is time too.
        let _ = receiver.wait_for(|requested| *requested).await;
    }

    /// Whether the process is to stop.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        // An error means that the supervisor is gone.
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}
