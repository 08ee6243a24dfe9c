namespace Virtbus.Hardware.VirtioPci;

/// <summary>How a virtio device is put behind PCI registers.</summary>
public sealed record VirtioFunctionOptions
{
    /// <summary>
    /// Whether drivers from before version 1.0 of the standard find their registers too: I/O ports in BAR 0, a device id from 0x1000 on, revision 0.
    /// </summary>
    public bool IsTransitional { get; init; }

    /// <summary>MSI-X vectors, 0 for none at all, at most 2048; null for one a queue and one for the configuration.</summary>
    public int? Vectors { get; init; }

    /// <summary>Whether a driver may put the index of what it made available into its notifications (VIRTIO_F_NOTIFICATION_DATA).</summary>
    public bool HasNotificationData { get; init; }

    /// <summary>Virtual functions that can be enabled, 0 to 256.</summary>
    public int VirtualFunctions { get; init; }

    /// <summary>Whether a function with virtual ones has an administration queue for them (VIRTIO_F_ADMIN_VQ); one without has none.</summary>
    public bool HasAdminQueue { get; init; } = true;

    /// <summary>Whether that queue goes by the standard to the letter; see <see cref="Virtio.Admin.AdminOptions.IsStrict"/>.</summary>
    public bool IsAdminStrict { get; init; }

    /// <summary>Told of each command of that queue; see <see cref="Virtio.Admin.AdminOptions.Told"/>.</summary>
    public Action<Virtio.Admin.AdminCommand, Virtio.Admin.AdminAnswer>? AdminTold { get; init; }

    /// <summary>Whether the function has the queue.</summary>
    internal bool OffersAdminQueue => HasAdminQueue && VirtualFunctions > 0;
}
