"""The shapes of the networks: small enough for two cores, true members of their families."""

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

LATENT_CHANNELS = 4
FACTOR = 8
TEXT_WIDTH = 128
TEXT_LENGTH = 32


def new_vae() -> AutoencoderKL:
    """A KL autoencoder of factor 8, 0.9 million parameters."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
        block_out_channels=(16, 32, 64, 64),  # pyright: ignore[reportArgumentType]
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=2,  # few and wide: in a flat picture a norm keeps only what differs within a group
        mid_block_add_attention=False,
        sample_size=128,
    )


def new_unet(in_channels: int = LATENT_CHANNELS) -> UNet2DConditionModel:
    """The denoiser, 2.5 million parameters: convolutions at 16×16, attention to itself and the words at 8×8."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=in_channels,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 96),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def new_scheduler() -> DDIMScheduler:
    """The noise of Stable Diffusion with nothing left of the picture at its end (arXiv 2305.08891): flat colours come out right."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )
