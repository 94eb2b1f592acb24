//! A process that was started by another one, and does not outlive it.

use std::io::Read;

/// Waits for the end of the standard input.
pub async fn gone() {
    let (gone, wait) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        let mut nothing = [0; 64];
        while input.read(&mut nothing).is_ok_and(|count| count > 0) {}
        // The process may be ending for another reason.
        let _ = gone.send(());
    });
    // The thread ends by sending.
    let _ = wait.await;
}
