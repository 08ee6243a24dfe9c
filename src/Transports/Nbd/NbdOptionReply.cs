namespace Virtbus.Transports.Nbd;

/// <summary>What an option is answered with (NBD_REP_*).</summary>
internal enum NbdOptionReply : uint
{
    ACK = 1,
    SERVER = 2,
    INFO = 3,
    META_CONTEXT = 4,
    ERR_UNSUP = 0x80000001,
    ERR_INVALID = 0x80000003,
    ERR_UNKNOWN = 0x80000006,
    ERR_SHUTDOWN = 0x80000007,
    ERR_TOO_BIG = 0x80000009,
}
