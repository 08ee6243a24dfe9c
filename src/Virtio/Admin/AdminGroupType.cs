namespace Virtbus.Virtio.Admin;

/// <summary>Kinds of device groups (VIRTIO 1.4, 2.12).</summary>
public static class AdminGroupType
{
    /// <summary>The owner alone, as member 0.</summary>
    public const ushort VIRTIO_ADMIN_GROUP_TYPE_SELF = 0;

    /// <summary>The virtual functions of a physical one: function n, from 0, is member n + 1. The group is there while VF Enable is set.</summary>
    public const ushort VIRTIO_ADMIN_GROUP_TYPE_SRIOV = 1;
}
