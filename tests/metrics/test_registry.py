from dpmi.metrics import METRICS


def test_listing_is_truthful() -> None:
    names = {
        "euclidean",
        "ssim",
        "accuracy",
        "confidence",
        "advantage",
        "success_rate",
        "baselines",
        "paired_difference",
        "fisher",
        "robustness",
        "backdoor",
        "attack_accuracy",
        "knn_distance",
        "feature_distance",
        "fid",
        "manifolds",
        "knowledge_extraction",
        "best_ssim",
        "best_psnr",
        "lpips_distance",
        "worst_class",
        "tradeoff_ratio",
        "ceilings",
        "linkage",
        "strangers",
        "identification",
        "unit_auc",
    }
    assert names == set(METRICS)
