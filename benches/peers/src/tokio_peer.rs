//! tokio's channels, with a task that loops over each: no panics caught, nothing acknowledged, no counts.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Mutex, broadcast, mpsc, oneshot};

use crate::case::{BURST, CAPACITY, Case, Outcome, Small, Tally, Total, message};
use crate::threads::{Receivers, runtime};

fn start_mpsc(case: Case, messages: u64, total: &Total) -> Vec<mpsc::Sender<Small>> {
    (0..case.receivers())
        .map(|_| {
            let (sender, mut receiver) = mpsc::channel(CAPACITY);
            let mut tally = Tally::new(messages, total);
            tokio::task::spawn_local(async move {
                while let Some(small) = receiver.recv().await {
                    tally.add(&small);
                }
            });
            sender
        })
        .collect()
}

/// One channel whose receiver four tasks share.
fn start_queue(total: &Total) -> mpsc::Sender<Small> {
    let (sender, receiver) = mpsc::channel::<Small>(CAPACITY);
    let receiver = Arc::new(Mutex::new(receiver));
    for _ in 0..4 {
        let receiver = Arc::clone(&receiver);
        let total = total.clone();
        tokio::task::spawn_local(async move {
            loop {
                let next = receiver.lock().await.recv().await;
                let Some(small) = next else { return };
                total.add(1, small.amount);
            }
        });
    }
    sender
}

async fn publish(senders: &[mpsc::Sender<Small>], case: Case, messages: u64) -> anyhow::Result<()> {
    for id in 0..messages {
        for sender in senders {
            sender.send(message(id)).await?;
        }
        if case.is_same_thread() && id % BURST == BURST - 1 {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

pub fn mpsc(case: Case, messages: u64) -> Outcome {
    let total = Total::default();
    let counts = total.clone();
    let deliveries = messages * case.receivers() as u64;
    let elapsed = match case {
        Case::OneSame | Case::SixteenSame => {
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime(), async {
                let senders = start_mpsc(case, messages, &total);
                let start = Instant::now();
                publish(&senders, case, messages).await?;
                total.wait_here(deliveries).await;
                anyhow::Ok(start.elapsed())
            })?
        }
        Case::OneCross | Case::SixteenCross | Case::Queue4Cross => {
            let (_thread, senders) = Receivers::on_tokio(move || async move {
                match case {
                    Case::Queue4Cross => vec![start_queue(&counts)],
                    _ => start_mpsc(case, messages, &counts),
                }
            })?;
            runtime().block_on(async {
                let start = Instant::now();
                publish(&senders, case, messages).await?;
                total.wait(deliveries);
                anyhow::Ok(start.elapsed())
            })?
        }
        Case::RequestCross => {
            let (_thread, questions) = Receivers::on_tokio(|| async {
                let (sender, mut receiver) = mpsc::channel::<(u64, oneshot::Sender<u64>)>(CAPACITY);
                tokio::task::spawn_local(async move {
                    while let Some((question, answer)) = receiver.recv().await {
                        let _ = answer.send(question + 1);
                    }
                });
                sender
            })?;
            runtime().block_on(async {
                let start = Instant::now();
                for id in 0..messages {
                    let (sender, answer) = oneshot::channel();
                    questions.send((id, sender)).await?;
                    anyhow::ensure!(answer.await? == id + 1, "a wrong answer");
                }
                Ok(start.elapsed())
            })?
        }
    };
    Ok(Some(elapsed))
}

/// A broadcast drops what a slow receiver has not read. To deliver everything, as all the others do, it gets
/// a buffer for all messages of the run: it is compared without any back-pressure.
pub fn broadcast(case: Case, messages: u64) -> Outcome {
    if matches!(case, Case::Queue4Cross | Case::RequestCross) {
        return Ok(None);
    }
    let total = Total::default();
    let counts = total.clone();
    let deliveries = messages * case.receivers() as u64;
    let start_receivers = move || {
        let (sender, _) = broadcast::channel(messages as usize);
        for _ in 0..case.receivers() {
            let mut receiver = sender.subscribe();
            let mut tally = Tally::new(messages, &counts);
            tokio::task::spawn_local(async move {
                while let Ok(small) = receiver.recv().await {
                    tally.add(&small);
                }
            });
        }
        sender
    };
    let elapsed = if case.is_same_thread() {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime(), async {
            let sender = start_receivers();
            let start = Instant::now();
            for id in 0..messages {
                sender.send(message(id))?;
                if id % BURST == BURST - 1 {
                    tokio::task::yield_now().await;
                }
            }
            total.wait_here(deliveries).await;
            anyhow::Ok(start.elapsed())
        })?
    } else {
        let (_thread, sender) = Receivers::on_tokio(move || async move { start_receivers() })?;
        let start = Instant::now();
        for id in 0..messages {
            sender.send(message(id))?;
        }
        total.wait(deliveries);
        start.elapsed()
    };
    Ok(Some(elapsed))
}
