use super::*;

fn at(temperature: f64) -> Sampling {
    Sampling { temperature, ..Sampling::GREEDY }
}

/// Ids that can be drawn.
fn kept(sampling: Sampling, logits: &[f32]) -> Vec<u32> {
    let mut ids: Vec<u32> = sampling.candidates(logits).into_iter().map(|(id, _)| id).collect();
    ids.sort_unstable();
    ids
}

/// A text of `prompt` and `answer`.
fn sampler(sampling: &Sampling, prompt: &[u32], answer: &[u32]) -> Sampler {
    let mut sampler = Sampler::new(sampling.clone(), 0, prompt);
    answer.iter().for_each(|id| sampler.accept(*id));
    sampler
}

/// Logits after everything that changes them.
fn changed(sampling: &Sampling, prompt: &[u32], answer: &[u32], mut logits: Vec<f32>) -> Vec<f32> {
    sampler(sampling, prompt, answer).choose(&mut logits, &[], None).unwrap();
    logits
}

/// Logits of a coarse grid, so that many are equal.
fn tied(seed: u64, n: usize) -> Vec<f32> {
    (0..n as u64).map(|i| (random::indexed(seed, i) % 60) as f32 * 0.25 - 7.0).collect()
}

/// What can be drawn, in the order in which it is, by sorting everything.
fn by_sorting(sampling: &Sampling, logits: &[f32]) -> Vec<(u32, f64)> {
    let mut all: Vec<(u32, f32)> = logits.iter().enumerate().map(|(id, x)| (id as u32, *x)).collect();
    let sorts = sampling.top_k.is_some() || sampling.top_p.is_some();
    if sorts {
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    }
    all.truncate(sampling.top_k.unwrap_or(usize::MAX));
    let max = all.iter().fold(f32::NEG_INFINITY, |m, (_, x)| m.max(*x));
    let mut all: Vec<(u32, f64)> =
        all.into_iter().map(|(id, x)| (id, (f64::from(x - max) / sampling.temperature).exp())).collect();
    if let Some(p) = sampling.top_p {
        let (total, mut before): (f64, f64) = (all.iter().map(|(_, w)| w).sum(), 0.0);
        let mut kept = Vec::new();
        for (id, w) in all {
            if before < p * total || kept.is_empty() {
                kept.push((id, w));
            }
            before += w;
        }
        all = kept;
    }
    all.retain(|(_, w)| *w >= sampling.min_p.unwrap_or(0.0));
    all
}

#[test]
fn what_can_be_drawn_is_what_a_full_sort_leaves() {
    let mut sizes = std::collections::HashSet::new();
    for seed in 0..12 {
        let logits = tied(seed, [7, 100, 5000][seed as usize % 3]);
        for temperature in [0.3, 1.0, 4.0] {
            for top_k in [None, Some(1), Some(3), Some(50), Some(4999), Some(9999)] {
                for top_p in [None, Some(1e-6), Some(0.31), Some(0.9), Some(0.999)] {
                    for min_p in [None, Some(0.0), Some(0.07), Some(1.0)] {
                        let sampling = Sampling { top_k, top_p, min_p, ..at(temperature) };
                        let expected = by_sorting(&sampling, &logits);
                        assert_eq!(sampling.candidates(&logits), expected, "{sampling:?}, {} logits", logits.len());
                        sizes.insert(expected.len());
                    }
                }
            }
        }
    }
    assert!(sizes.len() > 50 && sizes.contains(&1) && sizes.contains(&5000), "{sizes:?}");
    // All of them, in the order of a sort.
    let (logits, all) = (tied(3, 5000), Sampling { top_p: Some(1.0), ..at(1.0) });
    let order = |list: Vec<(u32, f64)>| list.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
    assert_eq!(order(all.candidates(&logits)), order(by_sorting(&all, &logits)));
}

#[test]
fn top_k_keeps_the_k_most_likely() {
    let logits = [0.0, 3.0, 1.0, 3.0, -1.0];
    assert_eq!(kept(Sampling { top_k: Some(1), ..at(1.0) }, &logits), [1]);
    assert_eq!(kept(Sampling { top_k: Some(3), ..at(1.0) }, &logits), [1, 2, 3]);
    assert_eq!(kept(Sampling { top_k: Some(9), ..at(1.0) }, &logits), [0, 1, 2, 3, 4]);
}

#[test]
fn top_p_keeps_the_fewest_that_reach_p_after_the_temperature() {
    let logits = [0.5f32, 0.3, 0.15, 0.05].map(f32::ln);
    let keep = |p, t| kept(Sampling { top_p: Some(p), ..at(t) }, &logits);
    assert_eq!(keep(0.4, 1.0), [0]);
    assert_eq!(keep(0.6, 1.0), [0, 1]);
    assert_eq!(keep(0.94, 1.0), [0, 1, 2]);
    assert_eq!(keep(1.0, 1.0), [0, 1, 2, 3]);
    // Squared probabilities at temperature 1/2: 0.68, 0.25, 0.06, 0.01.
    assert_eq!(keep(0.6, 0.5), [0]);
    assert_eq!(keep(1e-9, 1.0), [0]);
}

#[test]
fn min_p_is_relative_to_the_most_likely_after_the_temperature() {
    let logits = [0.5f32, 0.3, 0.15, 0.05].map(f32::ln);
    let keep = |p, t| kept(Sampling { min_p: Some(p), ..at(t) }, &logits);
    assert_eq!(keep(0.0, 1.0), [0, 1, 2, 3]);
    assert_eq!(keep(0.2, 1.0), [0, 1, 2]);
    assert_eq!(keep(0.5, 1.0), [0, 1]);
    assert_eq!(keep(1.0, 1.0), [0]);
    // 0.3 / 0.5, squared, is 0.36.
    assert_eq!(keep(0.5, 0.5), [0]);
}

#[test]
fn top_k_comes_before_top_p() {
    let logits = [0.4f32, 0.3, 0.2, 0.1].map(f32::ln);
    // Of the first two alone, 0.4 / 0.7 = 0.57 is reached by the first.
    assert_eq!(kept(Sampling { top_k: Some(2), top_p: Some(0.5), ..at(1.0) }, &logits), [0]);
    assert_eq!(kept(Sampling { top_p: Some(0.5), ..at(1.0) }, &logits), [0, 1]);
}

#[test]
fn the_repetition_penalty_moves_both_signs_away_and_counts_a_token_once() {
    let sampling = Sampling { repetition_penalty: 2.0, ..at(0.0) };
    let mut logits = [4.0, -1.0, 3.0, 0.5];
    assert_eq!(sampler(&sampling, &[0, 0], &[1, 1, 99]).choose(&mut logits, &[], None).unwrap(), 2);
    assert_eq!(logits, [2.0, -2.0, 3.0, 0.5]);
}

#[test]
fn presence_and_frequency_are_of_the_answer_alone() {
    let (prompt, answer, logits) = ([0, 3, 3], [1, 2, 1, 1], vec![4.0f32; 4]);
    let presence = Sampling { presence_penalty: 0.5, ..at(0.0) };
    assert_eq!(changed(&presence, &prompt, &answer, logits.clone()), [4.0, 3.5, 3.5, 4.0]);
    let frequency = Sampling { frequency_penalty: -0.25, ..at(0.0) };
    assert_eq!(changed(&frequency, &prompt, &answer, logits.clone()), [4.0, 4.75, 4.25, 4.0]);
    let all = Sampling { repetition_penalty: 2.0, presence_penalty: 0.5, frequency_penalty: 0.25, ..at(0.0) };
    assert_eq!(changed(&all, &prompt, &answer, logits), [2.0, 0.75, 1.25, 2.0]);
}

#[test]
fn a_bias_is_added_before_the_penalties_and_at_its_ends_bans_and_forces() {
    let bias = |bias: &[(u32, f32)]| Sampling { bias: bias.to_vec(), ..at(0.0) };
    assert_eq!(changed(&bias(&[(1, 2.5), (9, 1.0)]), &[], &[], vec![1.0, -1.0]), [1.0, 1.5]);
    let penalised = Sampling { repetition_penalty: 2.0, ..bias(&[(1, 5.0)]) };
    assert_eq!(changed(&penalised, &[1], &[], vec![1.0, -1.0]), [1.0, 2.0]);
    let choose = |sampling: &Sampling, logits: &[f32]| sampler(sampling, &[], &[]).choose(&mut logits.to_vec(), &[], None);
    assert_eq!(choose(&bias(&[(0, -100.0)]), &[900.0, 1.0, 2.0]).unwrap(), 2);
    assert_eq!(choose(&bias(&[(0, -99.0)]), &[900.0, 1.0, 2.0]).unwrap(), 0);
    assert_eq!(choose(&bias(&[(1, 100.0)]), &[30.0, -30.0, 2.0]).unwrap(), 1);
    let none = choose(&bias(&[(0, -100.0), (1, -100.0)]), &[1.0, 2.0]).unwrap_err();
    assert!(none.to_string().contains("none may come"), "{none}");
}

#[test]
fn what_is_banned_or_not_allowed_never_comes() {
    let logits: Vec<f32> = (0..70).map(|i| i as f32).collect();
    let choose = |banned: &[u32], allowed: Option<&[u32]>| {
        let mut logits = logits.clone();
        let id = sampler(&at(0.0), &[], &[]).choose(&mut logits, banned, allowed)?;
        Ok::<_, Error>((id, logits.iter().filter(|x| x.is_finite()).count()))
    };
    assert_eq!(choose(&[69, 68, 500], None).unwrap(), (67, 68));
    assert_eq!(choose(&[], Some(&[u32::MAX; 3])).unwrap(), (69, 70));
    assert_eq!(choose(&[], Some(&[u32::MAX, 1 << 5])).unwrap(), (37, 33));
    assert_eq!(choose(&[37], Some(&[1 << 31 | 1, 1 << 5, 0])).unwrap(), (31, 2));
    for (banned, allowed) in [(&[37u32][..], &[0, 1 << 5][..]), (&[], &[]), (&[], &[0, 0, 1 << 6])] {
        assert_eq!(choose(banned, Some(allowed)).unwrap_err().exit_code(), 2);
    }
    // Neither a bias nor the last resort of a draw brings one back.
    let sampling = Sampling { bias: vec![(2, 100.0)], seed: 3, ..at(2.0) };
    for n in 0..300 {
        let prompt = vec![0; n];
        let id = sampler(&sampling, &prompt, &[]).choose(&mut [0.0, 0.0, 0.0, 1.0], &[3], Some(&[0b1011])).unwrap();
        assert!(id < 2, "{id}");
    }
}

#[test]
fn draws_follow_the_probabilities_and_the_seed() {
    let logits = [0.5f32, 0.3, 0.2].map(f32::ln);
    let draws = |seed: u64, stream: u64| -> Vec<u32> {
        let mut sampler = Sampler::new(Sampling { seed, ..at(1.0) }, stream, &[]);
        let mut next = |_| {
            let id = sampler.choose(&mut logits.clone(), &[], None).unwrap();
            sampler.accept(id);
            id
        };
        (0..3000).map(&mut next).collect()
    };
    let first = draws(7, 0);
    assert_eq!(first, draws(7, 0));
    assert_ne!(first, draws(8, 0));
    assert_ne!(first, draws(7, 1));
    for (id, share) in [0.5, 0.3, 0.2].into_iter().enumerate() {
        let found = first.iter().filter(|x| **x as usize == id).count() as f64 / 3000.0;
        assert!((found - share).abs() < 0.03, "token {id}: {found} of {share}");
    }
}

#[test]
fn a_draw_is_a_function_of_seed_stream_and_position() {
    let (logits, sampling) = (tied(5, 900), Sampling { top_k: Some(300), seed: 11, ..at(1.5) });
    for (n, answered) in [(0, 0), (4, 0), (4, 37), (41, 0)] {
        let u = random::stream(11, "sample", &[6, n + answered]).random::<f64>();
        let expected = draw(&by_sorting(&sampling, &logits), u).unwrap();
        let mut sampler = Sampler::new(sampling.clone(), 6, &vec![1; n as usize]);
        (0..answered).for_each(|_| sampler.accept(2));
        assert_eq!(sampler.choose(&mut logits.clone(), &[], None).unwrap(), expected);
    }
}

#[test]
fn log_probabilities_are_those_of_a_softmax() {
    let logits = [0.2f32, 0.5, 0.2, 0.1].map(|p| p.ln() + 40.0);
    for (id, p) in [0.2f32, 0.5, 0.2, 0.1].into_iter().enumerate() {
        assert!((logp_of(&logits, id as u32) - p.ln()).abs() < 1e-5);
    }
    assert_eq!(logp_of(&logits, 4), f32::NEG_INFINITY);
    assert_eq!(logp_of(&[0.0, f32::NEG_INFINITY], 1), f32::NEG_INFINITY);
    let ids = |n| top_logps(&logits, n).into_iter().map(|(id, _)| id).collect::<Vec<_>>();
    assert_eq!(ids(2), [1, 0]);
    assert_eq!(ids(9), [1, 0, 2, 3]);
    assert!(ids(0).is_empty());
    assert_eq!(top_logps(&[f32::NEG_INFINITY, 3.0], 5), [(1, 0.0)]);
    let many = tied(2, 3000);
    let mut sorted: Vec<(u32, f32)> = (0..3000).map(|id| (id, logp_of(&many, id))).collect();
    sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    assert_eq!(top_logps(&many, 20), sorted[..20]);
}

#[test]
fn impossible_settings_and_logits_are_refused() {
    let bad = [
        at(-1.0),
        at(f64::NAN),
        at(f64::INFINITY),
        Sampling { top_k: Some(0), ..at(1.0) },
        Sampling { top_p: Some(0.0), ..at(1.0) },
        Sampling { top_p: Some(1.5), ..at(1.0) },
        Sampling { top_p: Some(f64::NAN), ..at(1.0) },
        Sampling { min_p: Some(-0.1), ..at(1.0) },
        Sampling { min_p: Some(1.1), ..at(1.0) },
        Sampling { min_p: Some(f64::NAN), ..at(1.0) },
        Sampling { repetition_penalty: 0.0, ..at(1.0) },
        Sampling { repetition_penalty: 1e300, ..at(1.0) },
        Sampling { repetition_penalty: f64::NAN, ..at(1.0) },
        Sampling { presence_penalty: 2.1, ..at(1.0) },
        Sampling { presence_penalty: f64::NAN, ..at(1.0) },
        Sampling { frequency_penalty: -2.1, ..at(1.0) },
        Sampling { frequency_penalty: f64::NEG_INFINITY, ..at(1.0) },
        Sampling { bias: vec![(3, 1.0), (4, 100.5)], ..at(1.0) },
        Sampling { bias: vec![(3, f32::NAN)], ..at(1.0) },
    ];
    for sampling in bad {
        assert_eq!(sampling.check().unwrap_err().exit_code(), 2, "{sampling:?}");
    }
    Sampling { top_k: Some(5), top_p: Some(1.0), min_p: Some(0.0), ..at(0.7) }.check().unwrap();
    let ends = Sampling { presence_penalty: -2.0, frequency_penalty: 2.0, bias: vec![(0, -100.0), (1, 100.0)], ..at(0.0) };
    ends.check().unwrap();
    let choose = |logits: &mut [f32]| sampler(&at(0.0), &[], &[]).choose(logits, &[], None);
    assert!(matches!(choose(&mut [f32::NAN; 4]), Err(Error::NonFinite { .. })));
    assert_eq!(choose(&mut [f32::NAN, 1.0, 1.0]).unwrap(), 1);
}
