namespace Virtbus.Transports.Nbd;

/// <summary>Names and values of the NBD protocol (doc/proto.md of the NBD project). All fields on the wire are big endian.</summary>
internal static class NbdProtocol
{
    internal const ulong NBDMAGIC = 0x4e42444d41474943;
    internal const ulong IHAVEOPT = 0x49484156454F5054;
    internal const ulong NBD_REP_MAGIC = 0x3e889045565a9;
    internal const uint NBD_REQUEST_MAGIC = 0x25609513;
    internal const uint NBD_SIMPLE_REPLY_MAGIC = 0x67446698;
    internal const uint NBD_STRUCTURED_REPLY_MAGIC = 0x668e33ef;

    internal const ushort NBD_FLAG_FIXED_NEWSTYLE = 1;
    internal const ushort NBD_FLAG_NO_ZEROES = 2;

    internal const ushort NBD_FLAG_HAS_FLAGS = 1 << 0;
    internal const ushort NBD_FLAG_READ_ONLY = 1 << 1;
    internal const ushort NBD_FLAG_SEND_FLUSH = 1 << 2;
    internal const ushort NBD_FLAG_SEND_FUA = 1 << 3;
    internal const ushort NBD_FLAG_ROTATIONAL = 1 << 4;
    internal const ushort NBD_FLAG_SEND_TRIM = 1 << 5;
    internal const ushort NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6;
    internal const ushort NBD_FLAG_SEND_DF = 1 << 7;
    internal const ushort NBD_FLAG_CAN_MULTI_CONN = 1 << 8;
    internal const ushort NBD_FLAG_SEND_FAST_ZERO = 1 << 11;

    internal const ushort NBD_CMD_FLAG_FUA = 1 << 0;
    internal const ushort NBD_CMD_FLAG_NO_HOLE = 1 << 1;
    internal const ushort NBD_CMD_FLAG_DF = 1 << 2;
    internal const ushort NBD_CMD_FLAG_REQ_ONE = 1 << 3;
    internal const ushort NBD_CMD_FLAG_FAST_ZERO = 1 << 4;

    internal const ushort NBD_INFO_EXPORT = 0;
    internal const ushort NBD_INFO_NAME = 1;
    internal const ushort NBD_INFO_DESCRIPTION = 2;
    internal const ushort NBD_INFO_BLOCK_SIZE = 3;

    internal const ushort NBD_REPLY_FLAG_DONE = 1;
    internal const ushort NBD_REPLY_TYPE_NONE = 0;
    internal const ushort NBD_REPLY_TYPE_OFFSET_DATA = 1;
    internal const ushort NBD_REPLY_TYPE_BLOCK_STATUS = 5;
    internal const ushort NBD_REPLY_TYPE_ERROR = 0x8001;

    internal const uint NBD_STATE_HOLE = 1;
    internal const uint NBD_STATE_ZERO = 2;

    internal const string BaseAllocation = "base:allocation";

    /// <summary>The id of base:allocation among the contexts of a connection; there is no other one.</summary>
    internal const uint BaseAllocationId = 1;

    /// <summary>The longest string, in bytes of UTF-8: an export's name for one.</summary>
    internal const int MaxString = 4096;

    /// <summary>The longest payload of one request or reply that is served.</summary>
    internal const int MaxPayload = 32 << 20;

    internal const int RequestSize = 28;
    internal const int SimpleReplySize = 16;
    internal const int ChunkSize = 20;
    internal const int OptionSize = 16;
}
