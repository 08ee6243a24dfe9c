namespace Virtbus.Transports.Nbd;

/// <summary>What a client asks for in the handshake (NBD_OPT_*).</summary>
internal enum NbdOption : uint
{
    EXPORT_NAME = 1,
    ABORT = 2,
    LIST = 3,
    STARTTLS = 5,
    INFO = 6,
    GO = 7,
    STRUCTURED_REPLY = 8,
    LIST_META_CONTEXT = 9,
    SET_META_CONTEXT = 10,
}
