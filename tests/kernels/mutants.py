"""One deliberate bug for each kernel and each closed form, which the accuracy check of test_mutations.py must see."""

from dataclasses import dataclass, field

from kernel_cases import Size


@dataclass(frozen=True)
class Mutation:
    """A change of a module's text.

    Attributes:
        module: Under `edgekd_kernels`, `"_triton.rowwise"`.
        old: Text that occurs there once.
        new: What replaces it.
        loss: Public loss whose check must fail.
        size: Of the tensors, where the small table would not do.
        options: Of the loss.
    """

    module: str
    old: str
    new: str
    loss: str
    size: Size | None = None
    options: dict = field(default_factory=dict)


LARGE = Size(1, channels=64, teacher_channels=2, height=64, width=64)
"""So large that some magnitude is above 4, where the scale of attention is no longer 1."""

MUTATIONS = [
    Mutation(
        "_torch.rowwise",
        "_sample_sums(difference.mul_(p)).mul_(temperature**2 / ",
        "_sample_sums(difference.mul_(p)).mul_(temperature / ",
        "kd_kl",
    ),
    Mutation("_torch.rowwise", "terms.sub_(p.mul_(divergence))", "terms", "branch_kl"),
    Mutation("_torch.curriculum", "- squares - bent", "- bent", "curriculum_kl"),
    Mutation("_torch.standard", "excess.sub_(mine.mul_(", "excess.add_(mine.mul_(", "standardized_kl"),
    Mutation(
        "_torch.labelled",
        "at_label = (q - p).mul_(alpha * temperature)",
        "at_label = (p - q).mul_(alpha * temperature)",
        "dkd",
    ),
    Mutation(
        "_torch.labelled",
        "sub_(p_rest), alpha=gamma * temperature)",
        "sub_(p_rest), alpha=gamma)",
        "nkd",
        options={"temperature": 2.0},
    ),
    Mutation(
        "_torch.labelled",
        "values.sub_(_at(plain, label).squeeze(1), alpha=label_weight)",
        "values.add_(_at(plain, label).squeeze(1), alpha=label_weight)",
        "kd_ce",
    ),
    Mutation(
        "_torch.channelwise", "offsets = (weights * gaps).mean(dim=0)", "offsets = (weights * gaps).sum(dim=0)", "pkd"
    ),
    Mutation("_torch.channelwise", "(1 - squares / (variance * positions))", "(1 - squares / variance)", "vid"),
    Mutation("_torch.contrastive", "excess.diagonal().sub_(1)", "excess.diagonal().sub_(0)", "info_nce"),
    Mutation(
        "_torch.contrastive",
        "products.gather(1, rows).div_(temperature)",
        "products.gather(1, rows)",
        "bank_similarity",
    ),
    Mutation("_torch.contrastive", "slope[:, 0].neg_()", "slope[:, 0].abs_()", "crd"),
    Mutation("_torch.differences", "weight * len(squares) / squares.numel()", "weight / squares.numel()", "hint_mse"),
    Mutation("_torch.gram", "weighted + weighted.T", "weighted + weighted", "similarity_preserving"),
    Mutation(
        "_torch.gram",
        "mine * (2 * (grad * values).sum() / square)",
        "mine * ((grad * values).sum() / square)",
        "linear_cka",
    ),
    Mutation(
        "_torch.gram", "slopes = slopes - (slopes * relative).sum() / count", "slopes = slopes / 1", "rkd_distance"
    ),
    Mutation(
        "_torch.gram",
        "errors.mul_(weighted.unsqueeze(2)).sum(dim=0) / 2",
        "errors.mul_(weighted.unsqueeze(2)).sum(dim=0)",
        "rkd_angle",
    ),
    Mutation("_torch.pooled", "grad = 2 * grad.view(-1, 1, 1)", "grad = grad.view(-1, 1, 1)", "pooled_mse"),
    Mutation(
        "_torch.projection", "(grad * (2 / residual[0].numel()))", "(grad * (2 / residual.numel()))", "projected_mse"
    ),
    Mutation("_torch.spatial", "(inverse_s * cosines)", "inverse_s", "hint_l2"),
    Mutation(
        "_torch.spatial",
        "errors - mine * (mine * errors).sum(dim=1, keepdim=True)",
        "errors.clone()",
        "attention_transfer",
    ),
    Mutation(
        "_triton.rowwise",
        "divergence = tl.sum(tl.exp(log_p) * (log_p - log_q), axis=1)",
        "divergence = tl.sum(tl.exp(log_q) * (log_p - log_q), axis=1)",
        "kd_kl",
    ),
    Mutation(
        "_triton.rowwise",
        "tl.exp(log_p) * (inside + (log_p - log_q))",
        "tl.exp(log_p) * inside",
        "kd_kl",
        size=Size(2, classes=5000),
    ),
    Mutation("_triton.rowwise", "grad + outer * go + row * gr, mask", "grad + outer * go + row * 0, mask", "kd_kl"),
    Mutation(
        "_triton.rowwise",
        "p * (log_p - log_q - divergence[:, None])",
        "p * (log_p - log_q)",
        "branch_kl",
    ),
    Mutation(
        "_triton.rowwise",
        "temperature**2 / (1 if is_per_row else rows)",
        "temperature / (1 if is_per_row else rows)",
        "kd_kl",
    ),
    Mutation(
        "_triton.rowwise",
        "part_total * tl.exp(part_largest - larger[:, None])",
        "part_total",
        "kd_kl",
        size=Size(8, classes=8000),
        options={"temperature": 0.5},
    ),
    Mutation(
        "_triton.rows",
        "tl.where((column < columns)[None, :], tile * inverse_temperature, FILL)",
        "tile * inverse_temperature",
        "kd_kl",
    ),
    Mutation(
        "_triton.curriculum", "third = tl.where(is_small, cubic, convex - square)", "third = cubic", "curriculum_kl"
    ),
    Mutation("_triton.curriculum", "cubic = p * (m * m * m *", "cubic = p * (d * d * d *", "curriculum_kl"),
    Mutation(
        "_triton.curriculum",
        "convex + more_convex, bent + more_bent",
        "convex + more_convex, more_bent",
        "curriculum_kl",
        size=Size(2, classes=9000),
    ),
    Mutation("_triton.curriculum", "tl.load(statistics + 4 * tl", "tl.load(statistics + 0 * tl", "curriculum_kl"),
    Mutation("_triton.curriculum", "- log_s[:, None])", "- log_t[:, None])", "curriculum_kl"),
    Mutation("_triton.standard", "/ columns - away * away", "/ columns", "standardized_kl", size=Size(2, classes=9000)),
    Mutation("_triton.standard", "(top_t - top_s) + tl.log", "tl.log", "standardized_kl"),
    Mutation(
        "_triton.standard",
        "pull_s, pull_t = pull_s + more_pull_s, pull_t + more_pull_t",
        "pull_s, pull_t = more_pull_s, more_pull_t",
        "standardized_kl",
        size=Size(2, classes=9000),
    ),
    Mutation("_triton.standard", "((q - p) - y * share[:, None])", "(q - p)", "standardized_kl"),
    Mutation(
        "_triton.labelled",
        "return label + tl.exp(-_softplus(teacher_odds))",
        "return tl.exp(-_softplus(teacher_odds))",
        "dkd",
    ),
    Mutation("_triton.labelled", "of_p * upstream, own * upstream", "of_p * upstream, own", "dkd"),
    Mutation("_triton.channelwise", "s = tl.where(inside, s - tile_s[:, None], 0.0)", "s = s - tile_s[:, None]", "pkd"),
    Mutation("_triton.channelwise", "distance = xx - 2 * xy + yy", "distance = xx - xy + yy", "pkd"),
    Mutation("_triton.channelwise", "upstream * (xx - xy)", "upstream * (xx + xy)", "pkd"),
    Mutation("_triton.channelwise", "(x - y) - offset - x * slope)", "(x - y) - offset)", "pkd"),
    Mutation(
        "_triton.channelwise", "total += tl.sum((m - t) * (m - t), axis=1)", "total += tl.sum(m - t, axis=1)", "vid"
    ),
    Mutation(
        "_triton.channelwise",
        "total += tl.where(inside, square / (variance * positions) + tl.log(variance), 0.0)",
        "total += square / (variance * positions) + tl.log(variance)",
        "vid",
    ),
    Mutation("_triton.channelwise", "* (1.0 - ratio), axis=0)", "* ratio, axis=0)", "vid"),
    Mutation("_triton.channelwise", "result = (m - t) * (tl.load(grad", "result = (t - m) * (tl.load(grad", "vid"),
    Mutation(
        "_triton.differences", "total = (s - t) * (s - t) * scales[stage]", "total = (s - t) * (s - t)", "hint_mse"
    ),
    Mutation("_triton.differences", "(2 * scales[stage] * upstream)", "(scales[stage] * upstream)", "hint_mse_grouped"),
    Mutation(
        "_triton.pooled",
        "is_within & (column >= left[None, :]) & (column < right[None, :])",
        "is_within & (column >= left[None, :])",
        "pooled_mse",
    ),
    Mutation(
        "_triton.pooled",
        "of_part = shares + (start + part) * size",
        "of_part = shares + start * size",
        "pooled_mse",
        size=Size(2, channels=3, teacher_channels=3, height=9, width=15),
    ),
    Mutation("_triton.pooled", "(scale * weight / size)[None, :]", "(scale * weight)[None, :]", "pooled_mse"),
    Mutation("_triton.projection", "sums -= load_tile(teacher", "sums += load_tile(teacher", "projected_mse"),
    Mutation("_triton.projection", "sums *= tl.load(grad + sample) * scale", "sums *= scale", "projected_mse"),
    Mutation(
        "_triton.projection",
        "sums += product(r, s, UPCAST) * factor",
        "sums += product(r, s, UPCAST) * scale",
        "projected_mse",
    ),
    Mutation("_triton.products", "tl.dot(a1, b0, result, ", "tl.dot(a1, b1, result, ", "projected_mse"),
    Mutation("_triton.products", "tl.dot(middle, bits, result, ", "tl.dot(low, bits, result, ", "pooled_mse"),
    Mutation(
        "_triton.spatial",
        "tl.where(known, lengths - 2 * cosine, 0.0)",
        "tl.where(known, lengths - cosine, 0.0)",
        "hint_l2",
    ),
    Mutation("_triton.spatial", "result = (cosine[None, :] * s - t)", "result = (s - t)", "hint_l2"),
    Mutation(
        "_triton.spatial",
        "_power(x * _inverse_power(higher), p, POWER)",
        "_power(x, p, POWER)",
        "attention_transfer",
    ),
    Mutation(
        "_triton.spatial",
        "slope = (mine - theirs - mine * along) * factor",
        "slope = (mine - theirs) * factor",
        "attention_transfer",
    ),
    Mutation("_triton.spatial", "length_s * scale / positions", "length_s / positions", "attention_transfer", LARGE),
    Mutation("_triton.spatial", "(slope * tl.load(grad + sample))", "slope", "attention_transfer"),
    Mutation(
        "_triton.spatial",
        "st = st * ratio_s * ratio_t + s * t",
        "st = st + s * t",
        "hint_l2",
        size=Size(2, channels=5000, height=1, width=1),
    ),
    Mutation(
        "_triton.pairs",
        "squares += tl.sum(tile * tile, axis=1)",
        "squares += tl.sum(tl.abs(tile), axis=1)",
        "info_nce",
    ),
    Mutation(
        "_triton.pairs", "scores = tl.where((column < count)[None, :], scores, FILL)", "scores += 0.0", "info_nce"
    ),
    Mutation(
        "_triton.pairs",
        "result = (shares - tl.where(column[None, :] == row[:, None], 1.0, 0.0))",
        "result = shares",
        "info_nce",
    ),
    Mutation(
        "_triton.pairs",
        "total = total * tl.exp(largest - larger) + tl.sum(sums, axis=0)",
        "total = tl.max(sums, axis=0)",
        "info_nce",
        size=Size(40, features=9, teacher_features=9),
    ),
    Mutation("_triton.pairs", "((e - x * share) * scale)", "(e * scale)", "info_nce"),
    Mutation(
        "_triton.contrastive",
        'tl.where(is_row, products * inverse_temperature, float("nan"))',
        "products",
        "bank_similarity",
    ),
    Mutation(
        "_triton.contrastive",
        "total += tl.sum(tile * upstream[:, None], axis=0)",
        "total += tl.sum(tile, axis=0)",
        "bank_similarity",
    ),
    Mutation("_triton.contrastive", "total += tl.where(column < chosen, softplus, 0.0)", "total += softplus", "crd"),
    Mutation("_triton.contrastive", "tl.where(column == 0, -upstream, upstream)", "upstream", "crd"),
    Mutation("_triton.gram", "slope = (error - s * share)", "slope = error", "similarity_preserving"),
    Mutation("_triton.gram", "mine + others, mask=inside", "mine + mine, mask=inside", "similarity_preserving"),
    Mutation(
        "_triton.gram",
        "statistics + 3 * row + 1, tl.sum(square,",
        "statistics + 3 * row + 1, tl.sum(target_square,",
        "linear_cka",
    ),
    Mutation(
        "_triton.gram",
        "pull += target * tl.load(grad + at, mask=at < batch, other=0.0)",
        "pull += target",
        "linear_cka",
    ),
    Mutation("_triton.gram", "(batch * _inverse(norms))", "_inverse(norms)", "linear_cka"),
    Mutation("_triton.gram", "(both + mean - pull) - shrink * k)", "(both + mean - pull))", "linear_cka"),
    Mutation("_triton.gram", "    count += tl.where(s == 0, 0.0, 1.0)", "    count += 1.0", "rkd_distance"),
    Mutation(
        "_triton.gram",
        "tl.store(losses + row, (tl.sum(total, axis=0) / batch)",
        "tl.store(losses + row, tl.sum(total, axis=0)",
        "rkd_distance",
    ),
    Mutation("_triton.gram", "total += s * slope", "total += slope", "rkd_distance"),
    Mutation("_triton.gram", "* _inverse(s) * scale * scale / batch", "* _inverse(s) * scale / batch", "rkd_distance"),
    Mutation("_triton.angles", "_measure(theirs, row", "_measure(mine, row", "rkd_angle"),
    Mutation("_triton.angles", "slope * (gap - 0.5 * slope)", "slope * (gap - slope)", "rkd_angle"),
    Mutation(
        "_triton.angles",
        "times * tl.sum(",
        "tl.sum(",
        "rkd_angle",
        size=Size(130, features=5, teacher_features=3),
    ),
    Mutation("_triton.angles", "total -= errors", "total += errors", "rkd_angle"),
    Mutation("_triton.angles", "ends + at * plane + across", "ends + at * plane + along", "rkd_angle"),
    Mutation("_triton.angles", "-tl.sum(balance, axis=0)", "tl.sum(balance, axis=0)", "rkd_angle"),
    Mutation("_triton.batch_gram", "mean = (total / batch)", "mean = (2 * total / batch)", "linear_cka"),
    Mutation(
        "_triton.batch_gram", "tl.where(mask_a, a - mean[None, :], 0.0)", "tl.where(mask_a, a, 0.0)", "linear_cka"
    ),
    Mutation(
        "_triton.batch_gram",
        "row * batch + column, column * batch + row)",
        "row * batch + column, row * batch + column)",
        "rkd_distance",
        size=Size(70, features=9, teacher_features=9),
    ),
    Mutation("_triton.batch_gram", "square = both - 2 * tl.load(gram", "square = both - tl.load(gram", "rkd_distance"),
    Mutation(
        "_triton.batch_gram",
        "sums = added(sums, product(m, x, UPCAST))",
        "sums = product(m, x, UPCAST)",
        "rkd_distance",
        size=Size(70, features=9, teacher_features=9),
    ),
    Mutation(
        "_triton.labelled",
        "softening * (first * _pair_divergence(odds_s, odds_t) + second * rest)",
        "softening * (first * _pair_divergence(odds_s, odds_t) + rest)",
        "dkd",
    ),
    Mutation("_triton.labelled", "tl.exp(-_softplus(odds_t)) * rest", "rest", "kd_ce"),
    Mutation("_triton.labelled", "second * softening * rest", "second * rest", "nkd", options={"temperature": 2.0}),
    Mutation("_triton.labelled", "t * inverse_temperature - log_t[:, None], 0.0", "t - log_t[:, None], 0.0", "dkd"),
    Mutation(
        "_triton.labelled",
        "_rest_term(log_q, log_p, within, LOSS)",
        "_rest_term(log_q, log_p, 0.0, LOSS)",
        "nkd",
        size=Size(2, classes=5000),
    ),
]
