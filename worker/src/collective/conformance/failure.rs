use std::sync::{Arc, Barrier};
use std::thread;

use tch::{Device, Kind, Tensor};

use super::{DISTRIBUTED, everywhere, on_ranks, rank_of};
use crate::collective::{Collective, CollectiveError, Gang, LossCause};

type CallOn = fn(&dyn Collective) -> Result<(), CollectiveError>;

fn ones(len: i64) -> Tensor {
    Tensor::ones(len, (Kind::Float, Device::Cpu))
}

/// Every kind of call in which a rank can be blocked.
const BLOCKING: [CallOn; 4] = [
    |c| c.barrier(),
    |c| c.all_reduce(&mut ones(3)),
    |c| c.all_reduce(&mut ones(3_000_000)),
    |c| {
        c.all_gather(&ones(100_000), &vec![100_000; c.world()])
            .map(drop)
    },
];

#[test]
fn abort_fails_every_later_call_of_both_channels() {
    everywhere(|gang| {
        gang.abort.abort();
        gang.abort.abort();
        for collective in [&gang.statistics, &gang.gradients] {
            let error = collective.barrier().expect_err("aborted");
            // A peer's abort may come first.
            assert!(
                matches!(
                    error,
                    CollectiveError::Aborted | CollectiveError::PeerLost { .. }
                ),
                "{error}"
            );
        }
    });
}

#[test]
fn abort_from_another_thread_frees_the_ranks_blocked_in_a_call() {
    for (_, gangs_of) in DISTRIBUTED {
        for world in [2, 3, 4] {
            for call in BLOCKING {
                let gangs = gangs_of(world).expect("it has every world");
                // The last rank never calls: without the abort the others wait for ever.
                let results = on_ranks("abort", gangs, move |gang| {
                    if rank_of(gang.gradients.as_ref()) + 1 < world as i64 {
                        return Some(call(gang.gradients.as_ref()));
                    }
                    let handle = gang.abort.clone();
                    thread::spawn(move || handle.abort())
                        .join()
                        .expect("no panic");
                    None
                });
                let aborted = CollectiveError::PeerLost {
                    rank: diptych_common::ids::Rank::new(world as u32 - 1),
                    cause: LossCause::Aborted,
                };
                for error in results.into_iter().flatten() {
                    match error.expect_err("the gang was aborted") {
                        CollectiveError::PeerLost {
                            rank,
                            cause: LossCause::ReportedBy(_),
                        } => {
                            assert_eq!(rank.get() as usize, world - 1);
                        }
                        error => assert_eq!(error, aborted),
                    }
                }
            }
        }
    }
}

#[test]
fn the_aborting_rank_itself_is_freed() {
    for (_, gangs_of) in DISTRIBUTED {
        for call in BLOCKING {
            let gangs = gangs_of(2).expect("it has every world");
            let entered = Arc::new(Barrier::new(2));
            let results = on_ranks("own abort", gangs, move |gang| {
                if rank_of(gang.gradients.as_ref()) == 1 {
                    // Holds its end open until rank 0 is free.
                    entered.wait();
                    return None;
                }
                let handle = gang.abort.clone();
                let aborter = thread::spawn(move || handle.abort());
                let result = call(gang.gradients.as_ref());
                aborter.join().expect("no panic");
                entered.wait();
                Some(result)
            });
            assert_eq!(results[0], Some(Err(CollectiveError::Aborted)));
        }
    }
}

/// Rank 0 leaves while its device is in a call of each channel, which the other rank never makes.
fn leaves_in_the_middle(leave: fn(Gang)) {
    let gangs = super::pretend_gangs(2).expect("it has every world");
    let left = Arc::new(Barrier::new(2));
    on_ranks("in the middle", gangs, move |gang| {
        if gang.rank().get() == 0 {
            for channel in [&gang.statistics, &gang.gradients] {
                assert!(channel.only_queues());
                channel
                    .begin_all_reduce(&mut ones(3))
                    .expect("it is queued");
            }
            leave(gang);
        }
        // The other one holds its end open until then.
        left.wait();
    });
}

#[test]
fn an_abort_frees_a_rank_whose_device_is_in_calls_of_both_channels() {
    leaves_in_the_middle(|gang| gang.abort.abort());
}

#[test]
fn a_rank_that_leaves_in_the_middle_of_calls_does_not_wait_for_peers() {
    leaves_in_the_middle(drop);
}

#[test]
fn abort_in_the_middle_of_a_stream_frees_everyone() {
    for (_, gangs_of) in DISTRIBUTED {
        for world in [2, 4] {
            let gangs = gangs_of(world).expect("it has every world");
            let results = on_ranks("stream", gangs, move |gang| {
                if gang.rank().get() == 1 {
                    let handle = gang.abort.clone();
                    let statistics = Arc::clone(&gang.statistics);
                    thread::spawn(move || {
                        // All ranks are streaming by now.
                        let met = statistics.barrier();
                        handle.abort();
                        met
                    });
                } else {
                    let statistics = Arc::clone(&gang.statistics);
                    thread::spawn(move || statistics.barrier());
                }
                loop {
                    if let Err(error) = gang.gradients.all_reduce(&mut ones(200_000)) {
                        return error;
                    }
                }
            });
            for (rank, error) in results.iter().enumerate() {
                let expected =
                    matches!(error, CollectiveError::PeerLost { rank, .. } if rank.get() == 1);
                assert!(
                    expected || (rank == 1 && *error == CollectiveError::Aborted),
                    "rank {rank}: {error}"
                );
            }
        }
    }
}

#[test]
fn a_rank_that_leaves_while_it_is_needed_is_named() {
    for (_, gangs_of) in DISTRIBUTED {
        for world in [2, 3, 4] {
            for call in BLOCKING {
                let gangs = gangs_of(world).expect("it has every world");
                let results = on_ranks("leave", gangs, move |gang| {
                    (gang.rank().get() != 0).then(|| call(gang.gradients.as_ref()))
                });
                for error in results.into_iter().flatten() {
                    let error = error.expect_err("rank 0 has left");
                    assert!(
                        matches!(error, CollectiveError::PeerLost { rank, .. } if rank.get() == 0),
                        "{error}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_rank_may_leave_after_its_last_call_while_others_still_finish_it() {
    for (_, gangs_of) in DISTRIBUTED {
        for world in [2, 3, 4] {
            for round in 0..10 {
                let gangs = gangs_of(world).expect("it has every world");
                let results = on_ranks("goodbye", gangs, move |gang| {
                    let mut tensor = ones(30_000 * (round % 3) + 5);
                    gang.gradients
                        .all_reduce(&mut tensor)
                        .map(|()| tensor.double_value(&[0]))
                });
                assert!(
                    results.iter().all(|result| *result == Ok(world as f64)),
                    "{results:?}"
                );
            }
        }
    }
}

#[test]
fn a_refused_operand_fails_the_gang_instead_of_leaving_the_others_waiting() {
    for (_, gangs_of) in DISTRIBUTED {
        let gangs = gangs_of(3).expect("it has every world");
        let results = on_ranks("refused", gangs, |gang| {
            if gang.rank().get() == 1 {
                let mut sparse = ones(4).view([2, 2]).transpose(0, 1);
                return gang.gradients.all_reduce(&mut sparse);
            }
            gang.gradients.all_reduce(&mut ones(4).view([2, 2]))
        });
        for (rank, result) in results.into_iter().enumerate() {
            match result.expect_err("rank 1 was refused") {
                CollectiveError::Operand { .. } => assert_eq!(rank, 1),
                CollectiveError::PeerLost { rank: lost, .. } => assert_eq!(lost.get(), 1),
                error => panic!("rank {rank}: {error}"),
            }
        }
    }
}
