"""examples/library.py: VRPO by the library alone."""

import library
import review_data
import sentiment_pairs

TINY = sentiment_pairs.EXAMPLES / "tiny-reviews"


def test_training_by_the_library_alone_lowers_the_loss_on_its_own_pairs():
    rows = sentiment_pairs.make_pairs(
        review_data.prompts("train_prompts", count=24),
        model=TINY,
        judge=sentiment_pairs.EXAMPLES / "sentiment_judge.safetensors",
        seed=0,
        max_new_tokens=8,
    )
    losses = []

    library.train(
        TINY,
        rows,
        epochs=4,
        learning_rate=3e-4,
        report=lambda step, loss, weight: losses.append(loss),
    )

    half = len(losses) // 2
    assert sum(losses[half:]) < sum(losses[:half])
