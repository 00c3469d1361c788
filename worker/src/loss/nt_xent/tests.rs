use super::*;
use crate::device::shim;
use crate::verify::{on_ranks, rank_gangs};

/// The loss as SimCLR v1 writes it, with a graph; rows of the memory are more columns.
fn plain(u: &Tensor, spec: &NtXentSpec, queue: Option<&Tensor>) -> Tensor {
    let rows = u.size()[0];
    let z = if spec.normalize {
        u / u.norm_scalaropt_dim(2, [1i64].as_slice(), true)
    } else {
        u.shallow_clone()
    };
    let s = z.matmul(&z.transpose(0, 1)) / spec.temperature;
    let s = s + Tensor::eye(rows, (u.kind(), u.device())) * -1e300;
    let partner = (Tensor::arange(rows, (Kind::Int64, u.device())) + rows / 2).remainder(rows);
    let positive = s.gather(1, &partner.unsqueeze(1), false).squeeze_dim(1);
    let s = match queue {
        Some(queue) => Tensor::cat(&[s, z.matmul(&queue.tr()) / spec.temperature], 1),
        None => s,
    };
    (s.logsumexp([1i64].as_slice(), false) - positive).mean(Kind::Double) * spec.scale
}

#[test]
fn ranks_with_uneven_shares_get_the_gradient_of_the_whole() {
    let pairs = 9;
    let x = Tensor::arange(2 * pairs * 5, (Kind::Double, tch::Device::Cpu));
    let rows = (x * 0.7).sin().view([2 * pairs, 5]);
    let numbers = Vec::<f64>::try_from(rows.flatten(0, -1)).expect("numbers");
    // Canonical positions in an order that interleaves views.
    let positions: Vec<i64> = (0..2 * pairs).map(|k| k * 5 % (2 * pairs)).collect();
    let cuts = [vec![18], vec![11, 7], vec![3, 10, 5], vec![1, 9, 2, 6]];
    // More rows than one tile of the memory holds.
    let rows_of_memory = (Tensor::arange(3001 * 5, (Kind::Double, tch::Device::Cpu)) * 0.3).cos();
    let memory = unit_rows(&rows_of_memory.view([3001, 5])).expect("rows");
    let memory_numbers = Vec::<f64>::try_from(memory.flatten(0, -1)).expect("numbers");
    for (temperature, normalize, scale, remembered) in [
        (0.1, true, 1.0, false),
        (0.02, true, 2.0, false),
        (3.0, false, 1.0, false),
        (0.1, true, 1.0, true),
        (0.02, true, 2.0, true),
    ] {
        let spec = NtXentSpec {
            temperature,
            normalize,
            scale,
        };
        let whole = rows.copy().set_requires_grad(true);
        let loss = plain(&whole, &spec, remembered.then_some(&memory));
        shim::backward(&[(&loss, &loss.ones_like())]).expect("backward");
        let expected = whole.grad();
        for shares in &cuts {
            let order = RowOrder::new(shares.clone(), positions.clone()).expect("an order");
            let ranks = rank_gangs(shares.len()).expect("gangs");
            let results = on_ranks(ranks, |gang| {
                let own = Tensor::from_slice(order.of_rank(gang.rank().get() as usize));
                let mine = Tensor::from_slice(&numbers);
                let local = mine.view([2 * pairs, 5]).index_select(0, &own);
                let memory = Tensor::from_slice(&memory_numbers).view([3001, 5]);
                let queue = remembered.then_some(&memory);
                let found = nt_xent(&local, &spec, &order, queue, gang.statistics.as_ref())
                    .expect("a loss");
                (found.figures().expect("a loss").loss, own, found.gradient)
            });
            for (value, own, gradient) in results.expect("no panic") {
                assert!(
                    (value - loss.double_value(&[])).abs() < 1e-12 * value.abs().max(1.0),
                    "{spec:?} {shares:?}"
                );
                let expected = expected.index_select(0, &own);
                let error = (&gradient - &expected).norm().double_value(&[]);
                let scale = expected.norm().double_value(&[]).max(1e-3 / temperature);
                assert!(
                    error < 1e-12 * scale,
                    "{spec:?} {shares:?}: {}",
                    error / scale
                );
            }
        }
    }
}

#[test]
fn a_row_of_zeros_has_a_finite_gradient() {
    let u = Tensor::zeros([4, 3], (Kind::Float, tch::Device::Cpu));
    let spec = NtXentSpec {
        temperature: 0.1,
        normalize: true,
        scale: 1.0,
    };
    let gang = crate::collective::solo::gang();
    let order = RowOrder::single(4).expect("an order");
    let found = nt_xent(&u, &spec, &order, None, gang.statistics.as_ref()).expect("a loss");
    let loss = found.figures().expect("a loss").loss;
    assert!((loss - 3f64.ln()).abs() < 1e-6, "{loss}");
    assert!(
        Vec::<f32>::try_from(found.gradient.flatten(0, -1))
            .expect("numbers")
            .iter()
            .all(|g| g.is_finite())
    );
}
