namespace Virtbus.Wire.VhostUser;

/// <summary>Numbers of the vhost-user specification that are no requests.</summary>
internal static class VhostUserProtocol
{
    // Sizes of what VhostUserLayouts has; a test compares them.
    internal const int HeaderSize = 12;
    internal const int RingStateSize = 8;
    internal const int RingAddressSize = 40;
    internal const int MemoryTableSize = 8;
    internal const int RegionSize = 32;
    internal const int SingleRegionSize = 40;
    internal const int ConfigHeaderSize = 12;

    /// <summary>The largest payload taken; the largest that the specification has for a request of ours is below 300 bytes.</summary>
    internal const int MaxPayload = 4096;

    internal const uint Version = 1;
    internal const uint VersionMask = 3;
    internal const uint ReplyFlag = 4;
    internal const uint NeedReplyFlag = 8;
    internal const uint KnownFlags = VersionMask | ReplyFlag | NeedReplyFlag;

    /// <summary>In the payload of SET_VRING_KICK, CALL and ERR: no descriptor comes with it.</summary>
    internal const ulong NoDescriptorFlag = 0x100;

    /// <summary>The largest piece of configuration space in one message.</summary>
    internal const int MaxConfig = 256;

    /// <summary>VHOST_USER_BACKEND_CONFIG_CHANGE_MSG on the back-end channel.</summary>
    internal const VhostUserRequest BACKEND_CONFIG_CHANGE = (VhostUserRequest)2;

    /// <summary>The virtio feature bit that offers protocol features; the guest never sees it.</summary>
    internal const ulong VHOST_USER_F_PROTOCOL_FEATURES = 1UL << 30;

    internal const ulong VHOST_USER_PROTOCOL_F_MQ = 1UL << 0;
    internal const ulong VHOST_USER_PROTOCOL_F_REPLY_ACK = 1UL << 3;
    internal const ulong VHOST_USER_PROTOCOL_F_BACKEND_REQ = 1UL << 5;
    internal const ulong VHOST_USER_PROTOCOL_F_CONFIG = 1UL << 9;
    internal const ulong VHOST_USER_PROTOCOL_F_RESET_DEVICE = 1UL << 13;
    internal const ulong VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS = 1UL << 15;
    internal const ulong VHOST_USER_PROTOCOL_F_STATUS = 1UL << 16;

    /// <summary>What this back end does.</summary>
    internal const ulong ProtocolFeatures =
        VHOST_USER_PROTOCOL_F_MQ | VHOST_USER_PROTOCOL_F_REPLY_ACK | VHOST_USER_PROTOCOL_F_BACKEND_REQ | VHOST_USER_PROTOCOL_F_CONFIG |
        VHOST_USER_PROTOCOL_F_RESET_DEVICE | VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS | VHOST_USER_PROTOCOL_F_STATUS;
}
