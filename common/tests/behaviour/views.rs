use diptych_common::spec::{
    AugmentSpec, BlurSigma, Brightness, ColorOrder, Implementation, Interpolation, Resampling,
};

use super::spec::check;

/// The augmentation of the first phase, which is a `pretrain`, of images of 32 pixels or 224.
fn views(augment: &str) -> AugmentSpec {
    let set = format!("phases[0].augment={augment}");
    let stem = if augment.contains("224") {
        "imagenet"
    } else {
        "cifar"
    };
    check(&[&set, &format!("encoder.stem={stem}")])
        .unwrap_or_else(|errors| panic!("{errors}"))
        .phases()[0]
        .augment
        .clone()
}

#[test]
fn defaults_are_the_official_codes_with_a_sigma_for_each_image() {
    assert_eq!(views("{image_size: 224}"), AugmentSpec::simclr(224));
    let cifar = "{image_size: 32, color_strength: 0.5}";
    assert_eq!(views(cifar), AugmentSpec::simclr_small(32));
    let spec = check(&[]).expect("valid");
    for phase in &spec.phases()[1..] {
        assert_eq!(phase.augment, AugmentSpec::plain(32), "{}", phase.name);
    }
}

#[test]
fn each_difference_between_paper_code_and_torchvision_has_a_word() {
    let v1 = views("{image_size: 224, brightness: additive, blur_sigma: view, color_order: fixed}");
    let additive = Implementation::Official {
        brightness: Brightness::Additive,
    };
    assert_eq!(
        (v1.implementation, v1.blur_sigma),
        (additive, BlurSigma::View)
    );
    assert_eq!(
        v1.color.as_ref().map(|color| color.order),
        Some(ColorOrder::Fixed)
    );
    assert_eq!(v1.resampling(), Resampling::Bicubic);
    for (words, interpolation, resampling) in [
        ("", Interpolation::Bilinear, Resampling::AntialiasedBilinear),
        (
            ", interpolation: bicubic",
            Interpolation::Bicubic,
            Resampling::AntialiasedBicubic,
        ),
    ] {
        let spec = views(&format!(
            "{{image_size: 224, implementation: torchvision{words}}}"
        ));
        assert_eq!(
            spec.implementation,
            Implementation::Torchvision { interpolation }
        );
        assert_eq!(spec.resampling(), resampling);
    }
}

#[test]
fn words_that_do_not_go_together_are_refused() {
    for (augment, path, word) in [
        (
            "{image_size: 32, implementation: torchvison}",
            "implementation",
            "torchvision",
        ),
        (
            "{image_size: 32, interpolation: bilinear}",
            "interpolation",
            "torchvision",
        ),
        (
            "{image_size: 32, implementation: torchvision, brightness: additive}",
            "brightness",
            "official",
        ),
        (
            "{image_size: 32, brightness: dim}",
            "brightness",
            "additive",
        ),
        ("{image_size: 32, color_order: any}", "color_order", "fixed"),
        ("{image_size: 32, blur_sigma: batch}", "blur_sigma", "view"),
    ] {
        let errors = check(&[&format!("phases[0].augment={augment}")]).expect_err(augment);
        let [error] = &errors.0[..] else {
            panic!("one error for {augment}: {errors}");
        };
        assert_eq!(error.path, format!("phases[0].augment.{path}"));
        assert!(error.message.contains(word), "{error}");
    }
}
