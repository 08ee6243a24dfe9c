using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Tests.Hardware.Virtio;

/// <summary>
/// What a driver finds after any steps, from the text of the standard (VIRTIO 1.4, 2.1, 2.6.1, 3.1.1, 3.4, 4.1.4.3, 6.1): the status, the features that it wrote,
/// whether its queue is enabled, and how many buffers came back.
/// </summary>
internal record struct StatusModel
{
    private const int MostOffers = 3;

    public byte Status { get; private set; }

    public int Features { get; private set; }

    public bool IsEnabled { get; private set; }

    public int Served { get; private set; }

    /// <summary>Whether the registers say where the ring is.</summary>
    public bool IsPlaced { get; private set; }

    /// <summary>Whether the driver has a ring.</summary>
    public bool HasRing { get; private set; }

    private int Offered { get; set; }

    private bool IsBroken { get; set; }

    // The device found that it is broken.
    private bool IsStopped { get; set; }

    /// <summary>Whether the driver has a ring that it may put a buffer into.</summary>
    public readonly bool CanOffer => HasRing && Offered < MostOffers && !IsBroken;

    public readonly bool CanBreak => HasRing && !IsBroken;

    /// <summary>Whether the driver may lay the ring out: a ring that is in use is not written over.</summary>
    public readonly bool CanPlace => !IsEnabled;

    public void Do(int step)
    {
        switch (step)
        {
            case 0:
                this = default;
                break;
            case < 256:
                SetStatus((byte)step);
                break;
            case StatusStep.Version or StatusStep.All or StatusStep.NoFeatures or StatusStep.Unoffered:
                if ((Status & FEATURES_OK) == 0)
                    Features = step;
                break;
            case StatusStep.Place when CanPlace:
                (IsPlaced, HasRing, IsBroken, Offered, Served) = (true, true, false, 0, 0);
                break;
            case StatusStep.Enable when (Status & FEATURES_OK) != 0:
                // With the driver ready the queue begins at once, and one that lies nowhere can't.
                IsEnabled |= IsPlaced || (Status & DRIVER_OK) == 0;
                break;
            case StatusStep.ResetQueue when (Status & FEATURES_OK) != 0 && Features == StatusStep.All:
                (IsEnabled, IsPlaced, HasRing, IsStopped, Offered, Served) = (false, false, false, false, 0, 0);
                break;
            case StatusStep.Offer when CanOffer:
                Offered++;
                break;
            case StatusStep.Break when CanBreak:
                IsBroken = true;
                break;
        }

        if (!IsEnabled || !IsPlaced || (Status & DRIVER_OK) == 0 || IsStopped)
            return;
        if (!IsBroken)
        {
            Served = Offered;
            return;
        }

        IsStopped = true;
        Status |= DEVICE_NEEDS_RESET;
    }

    private void SetStatus(byte wanted)
    {
        const byte Defined = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | FAILED | DEVICE_NEEDS_RESET;
        // Nobody took VIRTIO_F_SUSPEND here, so that bit is ignored, and the others of the write are not (VIRTIO 1.4, 3.4).
        wanted &= unchecked((byte)~SUSPEND);
        // Features that are not taken together are refused by not setting the bit.
        if ((Status & FEATURES_OK) == 0 && Features is not (StatusStep.Version or StatusStep.All))
            wanted &= unchecked((byte)~FEATURES_OK);
        if (wanted == 0 || (wanted & ~Defined) != 0 || (Status & ~wanted & ~DEVICE_NEEDS_RESET) != 0)
            return;
        var comes = wanted & ~Status;
        if ((comes & DRIVER) != 0 && (wanted & ACKNOWLEDGE) == 0)
            return;
        if ((comes & FEATURES_OK) != 0 && (wanted & (ACKNOWLEDGE | DRIVER)) != (ACKNOWLEDGE | DRIVER))
            return;
        if ((comes & DRIVER_OK) != 0 && ((wanted & (ACKNOWLEDGE | DRIVER)) != (ACKNOWLEDGE | DRIVER) || (Status & FEATURES_OK) == 0))
            return;
        Status |= (byte)(wanted & ~DEVICE_NEEDS_RESET);
    }
}
