import ferrule

def echo(conn):
    while data := conn.recv(65536):
        conn.sendall(data)

ferrule.run(ferrule.serve_tcp, echo, "127.0.0.1", 7000)
