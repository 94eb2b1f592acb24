//! The life of the publisher: what is on its way on one channel after another.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};

use super::{Confirmed, Job, Publication, PublishCounts, Publisher};
use crate::bridge::flights::Flights;
use crate::bridge::link::LinkState;
use crate::bridge::{Shared, explained, topology};
use crate::ports::crash_point;
use crate::supervisor::Stop;

/// What is on its way on one channel. Dropped for whatever reason, it goes back to be written again.
struct Sky<'a, F: Future> {
    publisher: &'a Publisher,
    flights: Flights<F>,
    jobs: Vec<Option<Job>>,
    free: Vec<usize>,
    /// Why RabbitMQ closed the channel, and not the connection.
    closed: Option<String>,
}

impl<F: Future> Drop for Sky<'_, F> {
    fn drop(&mut self) {
        let jobs = self.jobs.drain(..).flatten().collect();
        self.publisher.put_back(jobs, self.closed.as_deref());
    }
}

/// How one publication ended on its channel.
struct Landed {
    seat: usize,
    answer: lapin::Result<Answer>,
}

/// What lapin answered for one: the returned message may be another's.
struct Answer {
    is_ack: bool,
    returned: Option<Box<Route>>,
}

impl From<Confirmation> for Answer {
    fn from(confirmation: Confirmation) -> Self {
        let is_ack = !confirmation.is_nack();
        let returned = confirmation.take_message().map(|message| {
            let (exchange, key) = (message.exchange.as_str(), message.routing_key.as_str());
            Box::new(route_of(&message.properties, exchange, key))
        });
        Self { is_ack, returned }
    }
}

/// Names a publication in a return: the id alone may be on its way several times.
type Route = (String, String, String);

fn route_of(properties: &BasicProperties, exchange: &str, routing_key: &str) -> Route {
    let id = properties.message_id().as_ref();
    (
        id.map_or_else(String::new, ToString::to_string),
        exchange.to_owned(),
        routing_key.to_owned(),
    )
}

/// The returns that no publication was judged by yet, and how many there are of each: one id may be on its way twice, as
/// when its first publisher has given up and its relay tries again.
#[derive(Default)]
struct Returned(HashMap<Route, u32>);

impl Returned {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn clear(&mut self) {
        self.0.clear();
    }

    fn note(&mut self, route: Route) {
        *self.0.entry(route).or_default() += 1;
    }

    /// Whether one of them is of this publication; then it is one fewer.
    fn take(&mut self, publication: &Publication) -> bool {
        let route = route_of(
            &publication.properties,
            publication.exchange.as_str(),
            publication.routing_key.as_str(),
        );
        let Some(left) = self.0.get_mut(&route) else {
            return false;
        };
        *left -= 1;
        if *left == 0 {
            self.0.remove(&route);
        }
        true
    }
}

/// One life of the publisher: on one channel after another, until the connection fails or everything is published
/// at a stop. That a channel is closed is the fault of what was published on it, not of the publisher.
pub(in crate::bridge) async fn live(shared: Arc<Shared>, mut stop: Stop) -> Result<(), String> {
    let publisher = &shared.publisher;
    let connection = tokio::select! {
        connection = publisher.link.connected() => connection,
        () = stop.asked() => return Ok(()),
    };
    let Some(connection) = connection else {
        return Ok(());
    };
    loop {
        let plan = shared.base_plan();
        let declared = topology::apply(&connection, &plan, shared.amqp.topology);
        let declared = shared.opened(async { Ok::<_, String>(declared.await) });
        let declared = declared.await?;
        shared.note_topology(&shared.part("publisher"), declared.as_ref().err());
        declared.map_err(explained)?;
        let channel = shared.opened(open(&connection)).await?;
        let link = &publisher.link.name;
        match fly(publisher, &channel, &mut stop).await? {
            ChannelEnd::Done => return Ok(()),
            ChannelEnd::Closed(error) => {
                tracing::warn!(%link, %error, "RabbitMQ closed the channel for what was published");
            }
            ChannelEnd::Clogged => {
                tracing::warn!(%link, "publications without an answer take all places: the others go on a new channel");
                let closing = channel.close(200, "done".into());
                let _ = tokio::time::timeout(CLOSE, closing).await;
            }
        }
    }
}

/// How the life of a channel ended, if the connection lives on.
enum ChannelEnd {
    Done,
    /// For something that was published on it.
    Closed(lapin::Error),
    /// By what was given up and never answered.
    Clogged,
}

/// How long RabbitMQ may take to close a channel.
const CLOSE: Duration = Duration::from_secs(1);
/// How often a full window is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Publishes on one channel. What RabbitMQ closed the channel for is told apart from a lost connection.
async fn fly(
    publisher: &Publisher,
    channel: &Channel,
    stop: &mut Stop,
) -> Result<ChannelEnd, String> {
    let mut link = publisher.link.watch();
    let mut sky = Sky {
        publisher,
        flights: Flights::new(),
        jobs: Vec::new(),
        free: Vec::new(),
        closed: None,
    };
    let mut returned = Returned::default();
    let mut landed: Vec<Landed> = Vec::new();
    let mut most = publisher.places as usize;
    let mut stopping = false;
    loop {
        let is_blocked = match &*link.borrow_and_update() {
            LinkState::Up { blocked, .. } => blocked.is_some(),
            LinkState::Down { why } => return Err(why.to_string()),
        };
        while !is_blocked && let Some(mut job) = publisher.take(sky.flights.len(), &mut most) {
            job.written = Some(Instant::now());
            let flight = {
                let publication = Arc::clone(&job.publication);
                let seat = sky.free.pop().unwrap_or(sky.jobs.len());
                if seat == sky.jobs.len() {
                    sky.jobs.push(None);
                }
                sky.jobs[seat] = Some(job);
                async move {
                    let answer = write(channel, &publication).await;
                    Landed { seat, answer }
                }
            };
            sky.flights.add(flight);
        }
        sky.flights.pass(|one| landed.push(one));
        if let Some(error) = settle(
            &publisher.counts,
            &mut sky.jobs,
            &mut sky.free,
            &mut landed,
            &mut returned,
            sky.flights.len(),
        ) {
            if error.is_amqp_soft_error() {
                sky.closed = Some(explained(&error));
                return Ok(ChannelEnd::Closed(error));
            }
            return Err(explained(error));
        }
        if stopping && sky.flights.len() == 0 && publisher.is_idle() {
            return Ok(ChannelEnd::Done);
        }
        let is_full = publisher.is_full();
        if is_full && !is_blocked && publisher.is_clogged(&sky.jobs, Instant::now()) {
            return Ok(ChannelEnd::Clogged);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK), if is_full => {}
            () = publisher.wake.notified() => {}
            () = sky.flights.woken() => {}
            _ = link.changed() => {}
            () = stop.asked(), if !stopping => stopping = true,
        }
    }
}

async fn open(connection: &lapin::Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    Ok(channel)
}

async fn write(channel: &Channel, publication: &Publication) -> lapin::Result<Answer> {
    let confirm = channel
        .basic_publish(
            publication.exchange.clone(),
            publication.routing_key.clone(),
            BasicPublishOptions {
                mandatory: true,
                immediate: false,
            },
            &publication.body,
            publication.properties.clone(),
        )
        .await?;
    crash_point("before-confirm");
    Ok(confirm.await?.into())
}

/// Answers those who wait, and tells of the channel's failure.
///
/// lapin hands a returned message to whichever confirm comes first, and those of one `multiple` in no order: so first all
/// returns are noted, and each publication is judged by its own. While one is noted whose publication has not landed, the
/// return of one that has may still be on its way, and who found none keeps its seat and waits: lapin gives out as many
/// returns as confirms while it has any, so that one of those noted is then of another's.
fn settle(
    counts: &PublishCounts,
    jobs: &mut [Option<Job>],
    free: &mut Vec<usize>,
    landed: &mut Vec<Landed>,
    returned: &mut Returned,
    flying: usize,
) -> Option<lapin::Error> {
    let mut failed = None;
    landed.retain_mut(|one| match &mut one.answer {
        Ok(answer) => {
            if let Some(route) = answer.returned.take() {
                returned.note(*route);
            }
            true
        }
        Err(error) => {
            // It keeps its seat, and goes back in the end. Why the channel was closed is told to one of them.
            let told = failed.take().filter(lapin::Error::is_amqp_soft_error);
            failed = told.or_else(|| Some(error.clone()));
            false
        }
    });
    if !returned.is_empty() {
        landed.retain(|one| {
            let job = jobs[one.seat].as_ref();
            let was_returned = job.is_some_and(|job| returned.take(&job.publication));
            if was_returned {
                answer(counts, jobs, free, one, true);
            }
            !was_returned
        });
    }
    if flying == 0 {
        // Nothing is on its way whose they could be.
        returned.clear();
    }
    if returned.is_empty() {
        for one in landed.drain(..) {
            answer(counts, jobs, free, &one, false);
        }
    }
    failed
}

fn answer(
    counts: &PublishCounts,
    jobs: &mut [Option<Job>],
    free: &mut Vec<usize>,
    one: &Landed,
    was_returned: bool,
) {
    let Some(job) = jobs[one.seat].take() else {
        return;
    };
    free.push(one.seat);
    let is_ack = matches!(one.answer, Ok(Answer { is_ack: true, .. }));
    let (confirmed, count) = match (is_ack, was_returned) {
        (false, _) => (Confirmed::Nacked, &counts.nacked),
        (true, true) => (Confirmed::Returned, &counts.returned),
        (true, false) => (Confirmed::Routed, &counts.confirmed),
    };
    count.fetch_add(1, Ordering::Relaxed);
    // Who waited may have given up.
    let _ = job.done.send(Ok((confirmed, job.is_repeated)));
}

#[cfg(test)]
mod tests {
    use tokio::sync::{Semaphore, oneshot};

    use super::*;

    #[test]
    fn each_return_is_of_one_publication_though_they_have_one_id() {
        let publication = |key: &str| Publication {
            exchange: "commands".into(),
            routing_key: key.into(),
            properties: BasicProperties::default().with_message_id("7".into()),
            body: Arc::default(),
        };
        let (mail, pay) = (publication("mail"), publication("pay"));
        let mut returned = Returned::default();
        let route = |publication: &Publication| {
            let key = publication.routing_key.as_str();
            route_of(&publication.properties, "commands", key)
        };
        for _ in 0..2 {
            returned.note(route(&mail));
        }
        let judged = [&mail, &pay, &mail, &mail].map(|one| returned.take(one));
        assert_eq!(judged, [true, false, true, false]);
        returned.note(route(&pay));
        assert!(returned.take(&pay) && returned.is_empty());
    }

    /// Two commands that are bound to nothing, and one that is routed, confirmed together: lapin begins with the second, gives it the
    /// return of the first, and the rest comes later.
    #[test]
    fn a_confirm_whose_return_is_still_on_its_way_is_not_routed() {
        let window = Arc::new(Semaphore::new(3));
        let (mut jobs, mut answers) = (Vec::new(), Vec::new());
        let mut routes = Vec::new();
        for key in ["first", "second", "routed"] {
            let properties = BasicProperties::default().with_message_id(key.into());
            let publication = Publication {
                exchange: "commands".into(),
                routing_key: key.into(),
                properties: properties.clone(),
                body: Arc::default(),
            };
            routes.push(Box::new(route_of(&properties, "commands", key)));
            let (done, answered) = oneshot::channel();
            answers.push(answered);
            let place = Arc::clone(&window).try_acquire_owned().unwrap();
            jobs.push(Some(Job::new(Arc::new(publication), done, place, 0)));
        }
        let landed = |seat: usize, returned: Option<&Box<Route>>| Landed {
            seat,
            answer: Ok(Answer {
                is_ack: true,
                returned: returned.cloned(),
            }),
        };
        let counts = PublishCounts::default();
        let (mut free, mut returned) = (Vec::new(), Returned::default());
        let mut pass = vec![landed(2, None), landed(1, Some(&routes[0]))];
        let failed = settle(&counts, &mut jobs, &mut free, &mut pass, &mut returned, 1);
        assert!(failed.is_none() && free.is_empty());
        assert!(answers.iter_mut().all(|answer| answer.try_recv().is_err()));
        pass.push(landed(0, Some(&routes[1])));
        settle(&counts, &mut jobs, &mut free, &mut pass, &mut returned, 0);
        let told = answers
            .iter_mut()
            .map(|answer| answer.try_recv().unwrap().unwrap().0);
        let expected = [Confirmed::Returned, Confirmed::Returned, Confirmed::Routed];
        assert_eq!(told.collect::<Vec<_>>(), expected);
        assert!(returned.is_empty() && pass.is_empty() && window.available_permits() == 3);
    }
}
