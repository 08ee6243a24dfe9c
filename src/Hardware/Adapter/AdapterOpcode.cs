namespace Virtbus.Hardware.Adapter;

/// <summary>Commands; the fields are named as in docs/adapter-registers.md.</summary>
public enum AdapterOpcode : ushort
{
    /// <summary>Does nothing.</summary>
    Nop = 0,
    /// <summary>Result 0 and 1: the registers Parts and Queues.</summary>
    QueryCapabilities = 1,
    /// <summary>Copies argument 2 bytes from argument 0 to argument 1, for bring-up.</summary>
    Copy = 2,
    /// <summary>Argument 0 transmit ring, 1 receive ring, 2 index block, 3 sizes and vector. Result 0: the queue set's number.</summary>
    CreateQueueSet = 3,
    /// <summary>Index: the queue set.</summary>
    DestroyQueueSet = 4,
    /// <summary>Argument 0: 1 up, 0 down. Physical function only.</summary>
    SetLink = 5,
    /// <summary>Index: the id of a function. Result 0: its address; 1: its queue sets and state. Physical function only.</summary>
    QueryFunction = 16,
    /// <summary>Index: the id of a function that is not there. Argument 0: its address; 1: its queue sets. Physical function only.</summary>
    SetFunction = 17,
    /// <summary>Index: the id of a function. Argument 0: 1 stops only what reaches other functions. Physical function only.</summary>
    SuspendFunction = 18,
    /// <summary>Index: the id of a function. Physical function only.</summary>
    ResumeFunction = 19,
    /// <summary>Index: the id of a suspended function. Argument 0: where to; 1: bytes there. Result 0: bytes written. Physical function only.</summary>
    SaveFunction = 20,
    /// <summary>Index: the id of a suspended function. Argument 0: where from; 1: bytes; 2: where to say why not; 3: room there. Result 0: bytes said. Physical function only.</summary>
    LoadFunction = 21,
    /// <summary>Index: the id of a function. Result 0: a number that changes with its state. Physical function only.</summary>
    QueryGeneration = 22,
    /// <summary>Argument 0: where the parameters of a virtio block function are. Result 0: its window.</summary>
    CreateVirtioBlock = 32,
    /// <summary>Index: a window.</summary>
    DestroyVirtio = 33,
}
